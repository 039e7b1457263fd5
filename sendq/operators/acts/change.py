"""Reschedule, prioritise, hold and release a job that waits, or the waiting jobs of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

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

    def first(connection: Connection) -> tuple[UUID, Changing]:
        job_id, batch_id = lookup.job_or_batch(connection, job, batch, application, key)
        done = waiting_jobs.start(
            connection, wanted, author, job_id=job_id, batch_id=batch_id, now=ledger.now(), dry_run=dry_run
        )
        identity = job_id or batch_id
        assert identity is not None
        return identity, done

    # A dry run takes locks, as the act does, but for a moment only.
    with ledger.writing() as connection:
        identity, done = first(connection)
    while True:
        yield ChangeProgress(dry_run, str(identity), done.batch_id is not None, done.number, done.left)
        if done.after is None:
            return
        with ledger.writing() as connection:
            done = waiting_jobs.go_on(connection, wanted, done, now=ledger.now())
