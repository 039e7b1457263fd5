"""Add recipients to a suppression list, or remove them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sendq.ledger import suppressions
from sendq.ledger.db.bulk import chunks
from sendq.ledger.events import CategoryEvents
from sendq.ledger.operators import suppressions as lists
from sendq.operators.base import Ledger
from sendq.suppression_list import Given
from sendq.vault import Vault

STEP = 500


@dataclass(frozen=True, slots=True)
class SuppressProgress:
    """``changed``: entries that were added or removed so far (with ``dry_run``: would be), of ``given`` recipients."""

    application: str
    dry_run: bool
    given: int
    changed: int = 0


def suppress(
    ledger: Ledger, given: Sequence[Given], application: str, *, vault: Vault, by: str, reason: str, dry_run: bool
) -> Iterator[SuppressProgress]:
    """Add entries, some hundreds in each transaction."""
    events = CategoryEvents("suppressed", by=by, reason=reason, application=application)
    changed = 0
    for some in chunks(given, STEP):
        if dry_run:
            with ledger.reading() as connection:
                changed += lists.new_ones(connection, some, application, vault=vault)
        else:
            with ledger.writing() as connection:
                for category in sorted({one.category for one in some}):
                    part = [one for one in some if one.category == category]
                    new = lists.add(connection, part, application, source=by, vault=vault, now=ledger.now())
                    events.add(connection, category, new, now=ledger.now())
                    changed += new
        yield SuppressProgress(application, dry_run, len(given), changed)
    if not given:
        yield SuppressProgress(application, dry_run, 0)


def unsuppress(
    ledger: Ledger,
    given: Sequence[Given],
    application: str,
    *,
    every_category: bool,
    vault: Vault,
    by: str,
    reason: str,
    dry_run: bool,
) -> Iterator[SuppressProgress]:
    """Remove entries, some hundreds in each transaction."""
    events = CategoryEvents("unsuppressed", by=by, reason=reason, application=application)
    changed = 0
    for some in chunks(given, STEP):
        with ledger.reading() if dry_run else ledger.writing() as connection:
            found = lists.names(connection, some, application, every_category=every_category, vault=vault)
            if dry_run:
                changed += len(found)
            else:
                for category in sorted({category for _, _, category in found}):
                    removed = suppressions.remove(connection, [name for name in found if name[2] == category])
                    events.add(connection, category, removed, now=ledger.now())
                    changed += removed
        yield SuppressProgress(application, dry_run, len(given), changed)
