"""Erase what the ledger keeps of a grant's mail, and cancel its waiting jobs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from sendq.ids import lane_id
from sendq.ledger.batches import cancel_batch, end_some
from sendq.ledger.contents import drop_unused_contents
from sendq.ledger.db.bulk import chunks
from sendq.ledger.operators import erasure
from sendq.operators.base import Ledger

# Attached files that one transaction deletes: a file may have 25 MB.
FILES_STEP = 20


@dataclass(frozen=True, slots=True)
class ForgetProgress:
    """The progress of an erasure, or (``dry_run``) what would be done. ``jobs``: all jobs of the grant.

    ``cancelled``: waiting jobs that were cancelled; ``erased``: jobs of which only the record is kept. ``in_flight``,
    ``in_doubt``: jobs whose bodies are still needed; forget again once they have ended. ``keys`` and ``batches`` count
    those of the grant, ``batches_left`` the batches that could not be erased yet.
    """

    application: str
    grant_id: str
    dry_run: bool
    jobs: int
    keys: int
    batches: int
    cancelled: int = 0
    erased: int = 0
    in_flight: int = 0
    in_doubt: int = 0
    batches_left: int = 0

    @property
    def left(self) -> int:
        """Jobs whose bodies still exist."""
        return self.in_flight + self.in_doubt


def forget(
    ledger: Ledger, grant_id: str, application: str, *, by: str, reason: str, dry_run: bool
) -> Iterator[ForgetProgress]:
    """Forget a grant: one part for every few hundred jobs, and one at the end. Does nothing for an unknown grant."""
    with ledger.reading() as connection:
        found = erasure.find(connection, lane_id(application, grant_id))
    tally = erasure.Tally()
    start = ForgetProgress(application, grant_id, dry_run, len(found.jobs), len(found.keys), len(found.batches))

    def so_far() -> ForgetProgress:
        return replace(
            start, cancelled=tally.cancelled, erased=tally.erased, in_flight=tally.in_flight, in_doubt=tally.in_doubt
        )

    if dry_run or not found.jobs:
        for jobs in chunks(found.jobs, erasure.STEP):
            with ledger.reading() as connection:
                erasure.count(connection, jobs, tally)
        yield so_far()
        return
    with ledger.writing() as connection:
        erasure.note(connection, application, grant_id, by=by, reason=reason, now=ledger.now())
    for batch in found.batches:  # first, or they would find messages and create jobs meanwhile
        with ledger.writing() as connection:
            cancel_batch(connection, batch, now=ledger.now())
    for jobs in chunks(found.jobs, erasure.STEP):
        with ledger.writing() as connection:
            erasure.erase_jobs(connection, jobs, tally, now=ledger.now())
        yield so_far()
    for batch in found.batches:
        _end_rest(ledger, batch)
    for keys in chunks(found.keys, erasure.STEP):
        with ledger.writing() as connection:
            erasure.erase_keys(connection, keys)
    with ledger.writing() as connection:
        batches_left = erasure.erase_batches(connection, found.batches)
        erasure.erase_digests(connection, application, grant_id)
    _drop_files(ledger)
    ledger.empty_log()
    yield replace(so_far(), batches_left=batches_left)


def _end_rest(ledger: Ledger, batch: UUID) -> None:
    """End the jobs that a cancelled batch has created since, and drop found messages that have no jobs yet."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        with ledger.writing() as connection:
            after = end_some(connection, batch, after=after, now=ledger.now())


def _drop_files(ledger: Ledger) -> None:
    """Delete attached files that no job needs any more."""
    dropped = True
    while dropped:
        with ledger.writing() as connection:
            dropped = drop_unused_contents(connection, FILES_STEP) > 0
