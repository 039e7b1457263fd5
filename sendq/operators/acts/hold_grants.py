"""Hold many grants until a given time, a slice of them in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sendq.clock import Micros, moment
from sendq.ledger.db.bulk import chunks
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import many_grants
from sendq.ledger.operators.many_grants import Author
from sendq.ledger.reading.grants import GrantQuery, ids_of
from sendq.operators.acts.checks import event_fields
from sendq.operators.base import Ledger


@dataclass(frozen=True, slots=True)
class HoldProgress:
    """The progress of a hold of many grants, or (``dry_run``) what it would do.

    ``held``: grants so far; ``longer``: those that stay held for longer.
    """

    dry_run: bool
    until: datetime
    held: int = 0
    longer: int = 0


def hold_grants(
    ledger: Ledger, which: GrantQuery, *, until: Micros, by: str, reason: str, dry_run: bool
) -> Iterator[HoldProgress]:
    """Hold the grants that match; each part is one transaction."""
    with ledger.reading() as connection:
        lanes = ids_of(connection, which, now=ledger.now())
        longer = sum(many_grants.longer_held(connection, part, until=until) for part in chunks(lanes))
    held, end = 0, moment(until)
    if dry_run:
        yield HoldProgress(dry_run, end, len(lanes) - longer, longer)
        return
    event = ActEvent("hold", by=by, reason=reason, **event_fields(which))
    author = Author(by, reason, event.id)
    for part in chunks(lanes, many_grants.STEP):
        with ledger.writing() as connection:
            now = ledger.now()
            done = many_grants.hold_some(connection, part, which, author, until=until, now=now)
            event.add(connection, len(done), now=now)
        held += len(done)
        yield HoldProgress(dry_run, end, held, longer)
    if not lanes:
        yield HoldProgress(dry_run, end)
