"""Recover a ledger that was restored from a backup, and dispatch its jobs again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sendq.clock import SECOND, Micros, moment
from sendq.errors import Problem
from sendq.ledger.dispatching import lineage
from sendq.ledger.operators import recover as recovery
from sendq.operators.acts.checks import instant, refuse
from sendq.operators.base import Ledger


@dataclass(frozen=True, slots=True)
class RecoverProgress:
    """The progress of a recovery, or (``dry_run``) what it would do.

    ``in_doubt``: sends that were put in doubt; ``requeued``: changes of messages that returned to the queue; ``open``:
    jobs are dispatched again, which is the last part.
    """

    dry_run: bool
    in_doubt: int = 0
    requeued: int = 0
    open: bool = False


def start_of(ledger: Ledger, since: datetime | None) -> Micros | None:
    """The time at which the ledger's history ends, checked; None: it is complete. Raises `InvalidArgument`."""
    if since is None:
        return None
    at = instant("since", since)
    if at > ledger.now():
        refuse([Problem("since", "is in the future", "give the time of the backup")])
    with ledger.reading() as connection:
        known_until = lineage.read(connection).known_until
    if known_until is not None and at + SECOND < known_until:
        known = f"{moment(known_until):%Y-%m-%d %H:%M:%S}Z"
        refuse(
            [Problem("since", f"is too early: the ledger has records until {known}", "give that time, or a later one")]
        )
    return at


def recover(ledger: Ledger, since: Micros | None, *, by: str, reason: str, dry_run: bool) -> Iterator[RecoverProgress]:
    """Repair the jobs that were unfinished at ``since``, part by part; the last part resumes dispatching."""
    if since is None:
        yield from _resume(ledger, by=by, reason=reason, dry_run=dry_run)
        return
    if dry_run:
        with ledger.reading() as connection:
            unfinished = recovery.count(connection, since=since)
        yield RecoverProgress(dry_run, unfinished.sends, unfinished.changes)
        return
    sends = changes = 0
    after: UUID | None = None
    while True:
        with ledger.writing() as connection:
            part, after = recovery.put_in_doubt(connection, since=since, now=ledger.now(), after=after)
        sends, changes = sends + part.sends, changes + part.changes
        if after is None:
            break
        yield RecoverProgress(dry_run, sends, changes)
    with ledger.writing() as connection:
        recovery.open_again(connection, by=by, reason=reason, now=ledger.now())
    yield RecoverProgress(dry_run, sends, changes, open=True)


def _resume(ledger: Ledger, *, by: str, reason: str, dry_run: bool) -> Iterator[RecoverProgress]:
    """Take an operator's word that nothing was lost."""
    if not dry_run:
        with ledger.writing() as connection:
            recovery.open_again(connection, by=by, reason=reason, now=ledger.now())
    yield RecoverProgress(dry_run, open=not dry_run)
