"""Cancel one job, or a batch with all its jobs that have not gone out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.ledger import batches
from sendq.ledger.cancel import after_cancel, cancel_by
from sendq.ledger.dispatching.followers import followed_by
from sendq.ledger.reading import batch as batch_reading
from sendq.ledger.reading import lookup
from sendq.operators.base import Ledger
from sendq.rules.states import FINAL, State
from sendq.views import BatchView

# A batch is read again after this many transactions: adding up its jobs costs more than ending a few hundred.
LOOK_EVERY = 20


@dataclass(frozen=True, slots=True)
class CancelResult:
    """What a cancel did, or (``dry_run``) would do. ``before`` and ``state``: the job before and after it.

    ``state`` is ``cancelled`` (it will not go out); ``sending`` (its call is in flight: it is cancelled if the answer
    is "not sent"); ``in_doubt`` (it may have gone out, and is not tried again); or the state in which it had ended.
    ``followers``: how many jobs wait for it to be sent, directly or behind one another; they end with it.
    """

    job_id: str
    before: State
    state: State
    dry_run: bool
    followers: int = 0

    @property
    def ended_before(self) -> bool:
        """Whether there was nothing to cancel."""
        return self.before in FINAL


def cancel(
    connection: Connection, job_id: UUID, *, by: str, reason: str | None, dry_run: bool, now: Micros
) -> CancelResult:
    """Cancel one job. Raises `NotFound`."""
    row = lookup.job_row(connection, job_id)
    before = State(row.state)
    waiting = followed_by(connection, job_id) if before not in FINAL else 0
    if dry_run:
        return CancelResult(str(job_id), before, after_cancel(row), dry_run, waiting)
    state = cancel_by(connection, job_id, by=by, reason=reason, now=now)
    return CancelResult(str(job_id), before, state, dry_run, waiting)


@dataclass(frozen=True, slots=True)
class CancelBatchProgress:
    """The progress of a batch's cancel, or (``dry_run``) the batch as it is now."""

    batch: BatchView
    dry_run: bool

    @property
    def ended_before(self) -> bool:
        """Whether the batch had ended without being cancelled, so that nothing was changed."""
        return self.batch.finished_at is not None and self.batch.cancelled_at is None


def cancel_batch(
    ledger: Ledger, batch_id: UUID, *, by: str, reason: str | None, dry_run: bool
) -> Iterator[CancelBatchProgress]:
    """Cancel a batch: from the first part on nothing of it begins; later parts end its waiting jobs.

    If this is interrupted, workers end the rest. Raises `NotFound`.
    """
    seen = _view(ledger, batch_id)
    if dry_run or seen.finished_at is not None:
        yield CancelBatchProgress(seen, dry_run)
        return
    with ledger.writing() as connection:
        batches.cancel_batch_by(connection, batch_id, by=by, reason=reason, now=ledger.now())
    yield CancelBatchProgress(_view(ledger, batch_id), dry_run=False)
    after: UUID | None = UUID(int=0)
    steps = 0
    while after is not None:
        with ledger.writing() as connection:
            after = batches.end_some(connection, batch_id, after=after, now=ledger.now())
        steps += 1
        if after is not None and steps % LOOK_EVERY == 0:
            yield CancelBatchProgress(_view(ledger, batch_id), dry_run=False)
    yield CancelBatchProgress(_view(ledger, batch_id), dry_run=False)


def _view(ledger: Ledger, batch_id: UUID) -> BatchView:
    with ledger.reading() as connection:
        return batch_reading.batch(connection, batch_id, now=ledger.now())
