"""Reschedule, prioritise, hold and release a job that waits, or the waiting jobs of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sendq.ledger import waiting_jobs
from sendq.ledger.reading import lookup
from sendq.ledger.waiting_jobs import Author, Changing
from sendq.operators.base import Ledger
from sendq.rules.waiting_job import Change


@dataclass(frozen=True, slots=True)
class ChangeProgress:
    """The progress of a change of jobs that wait, or (``dry_run``) what it would do.

    ``id``: the job's or batch's. ``number``: jobs changed so far, without those that were already as asked for.
    ``left``: jobs of the batch that do not wait any more, or whose outcome is unknown.
    """

    dry_run: bool
    id: str
    is_batch: bool
    number: int
    left: int = 0


def change(
    ledger: Ledger,
    job: str | None,
    batch: str | None,
    key: str | None,
    application: str,
    wanted: Change,
    author: Author,
    *,
    dry_run: bool,
) -> Iterator[ChangeProgress]:
    """Change what is named; each part is one transaction."""
    # A dry run takes locks, as the act does, but for a moment only.
    with ledger.writing() as connection:
        job_id, batch_id = lookup.job_or_batch(connection, job, batch, application, key)
        first = waiting_jobs.start(
            connection, wanted, author, job_id=job_id, batch_id=batch_id, now=ledger.now(), dry_run=dry_run
        )
    identity = str(job_id or batch_id)
    for done in parts(ledger, wanted, first):
        yield ChangeProgress(dry_run, identity, done.batch_id is not None, done.number, done.left)


def parts(ledger: Ledger, wanted: Change, first: Changing) -> Iterator[Changing]:
    """How far a change is: after its first part, which is done, and after each further one, a transaction each."""
    done = first
    yield done
    while done.after is not None:
        with ledger.writing() as connection:
            done = waiting_jobs.go_on(connection, wanted, done, now=ledger.now())
        yield done
