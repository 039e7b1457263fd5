"""Release many grants, a slice of them in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sendq.clock import Micros
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.ledger.db.bulk import chunks
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import many_grants
from sendq.ledger.operators.many_grants import Author
from sendq.ledger.reading import held
from sendq.ledger.reading.grants import GrantQuery, ids_of
from sendq.operators.acts.checks import event_fields
from sendq.operators.base import Ledger
from sendq.scope import Scope


@dataclass(frozen=True, slots=True)
class ReleaseProgress:
    """The progress of a release of many grants, or (``dry_run``) what it would do.

    ``found``: grants that matched when the act began. ``released``: those whose hold ended so far; ``reopened``: those
    that were closed. ``wide``: providers and applications whose hold, by the rule that was named, ended too.
    ``waiting`` (dry runs only): the jobs that wait behind all of these; if ``more_waiting``, there are more.
    """

    dry_run: bool
    found: int
    released: int = 0
    reopened: int = 0
    wide: tuple[Scope, ...] = ()
    waiting: int | None = None
    more_waiting: bool = False


def release_grants(
    ledger: Ledger, which: GrantQuery, *, apart: Micros, by: str, reason: str, dry_run: bool
) -> Iterator[ReleaseProgress]:
    """Release the grants that match, those held for the longest time first; each part is one transaction.

    Each is released ``apart`` after the previous one, by a hold that ends then: the act itself does not wait.
    """
    first_at = ledger.now()
    with ledger.reading() as connection:
        lanes = ids_of(connection, which, now=first_at)
        pairs = many_grants.wide(connection, which, now=first_at)
        if dry_run:
            closed = held.closed_among(connection, lanes)
            jobs = held.waiting_behind(connection, lanes, pairs)
            yield ReleaseProgress(
                dry_run, len(lanes), len(lanes) - closed, closed, _scopes(pairs), jobs.number, jobs.more
            )
            return
    event = ActEvent("release", by=by, reason=reason, **event_fields(which))
    author = Author(by, reason, event.id)
    released = reopened = 0
    for part in chunks(lanes, many_grants.STEP):
        with ledger.writing() as connection:
            now = ledger.now()
            at = first_at + (released + reopened) * apart
            done = many_grants.release_some(connection, part, which, author, first_at=at, apart=apart, now=now)
            event.add(connection, len(done.released) + len(done.reopened), now=now)
        released, reopened = released + len(done.released), reopened + len(done.reopened)
        yield ReleaseProgress(dry_run, len(lanes), released, reopened)
    # Last, because their grants begin at once.
    ended: Sequence[tuple[str, str]] = ()
    if pairs:
        with ledger.writing() as connection:
            now = ledger.now()
            ended = many_grants.release_wide(connection, pairs, str(which.rule), author, now=now)
            event.add(connection, len(ended), now=now)
    yield ReleaseProgress(dry_run, len(lanes), released, reopened, _scopes(ended))


def _scopes(pairs: Sequence[tuple[str, str]]) -> tuple[Scope, ...]:
    return tuple(
        Scope(application, provider=None if provider == WHOLE_APPLICATION else provider)
        for application, provider in pairs
    )
