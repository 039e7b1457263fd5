"""Approve or reject jobs that wait for approval: those that are named, those of a batch, or all that match."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import NotFound, NotWaiting
from sendq.ledger import waiting_jobs
from sendq.ledger.events import ActEvent
from sendq.ledger.operators import unfinished
from sendq.ledger.reading.filters import JobFilter
from sendq.ledger.reading.seen_contents import seen_contents
from sendq.ledger.waiting_jobs import Author
from sendq.operators.acts.change import parts
from sendq.operators.acts.checks import event_fields
from sendq.operators.base import Ledger
from sendq.rules.waiting_job import Change


@dataclass(frozen=True, slots=True)
class DecisionProgress:
    """The progress of an approval or rejection, or (``dry_run``) what it would do.

    ``number``: jobs approved or rejected so far. ``refused``: of the jobs that were named, those left as they are, with
    the reason, which has their state.
    """

    dry_run: bool
    number: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


def decide(
    ledger: Ledger,
    which: JobFilter | Sequence[UUID],
    decision: Change,
    author: Author,
    *,
    seen_at: Micros | None,
    dry_run: bool,
) -> Iterator[DecisionProgress]:
    """Approve or reject what is named; each part is one transaction. ``seen_at``: when it was seen; None: now.

    Raises:
        NotWaiting: a batch is not complete, or none of its jobs waits for approval.
        NotFound: there is no such batch.
    """
    if not isinstance(which, JobFilter):
        yield from _named(ledger, which, decision, author, dry_run=dry_run)
    elif which == JobFilter(batch_id=which.batch_id):
        yield from _batch(ledger, which.batch_id, decision, author, seen_at=seen_at, dry_run=dry_run)
    else:
        yield from _matching(ledger, which, decision, author, seen_at=seen_at, dry_run=dry_run)


def _named(
    ledger: Ledger, ids: Sequence[UUID], decision: Change, author: Author, *, dry_run: bool
) -> Iterator[DecisionProgress]:
    number, refused = 0, dict[str, str]()
    for job_id in dict.fromkeys(ids):
        try:
            with ledger.writing() as connection:
                done = waiting_jobs.start(
                    connection, decision, author, job_id=job_id, batch_id=None, now=ledger.now(), dry_run=dry_run
                )
            number += done.number
        except (NotWaiting, NotFound) as error:
            refused[str(job_id)] = str(error)
        yield DecisionProgress(dry_run, number, dict(refused))


def _batch(
    ledger: Ledger,
    batch_id: UUID | None,
    decision: Change,
    author: Author,
    *,
    seen_at: Micros | None,
    dry_run: bool,
) -> Iterator[DecisionProgress]:
    with ledger.writing() as connection:
        first = waiting_jobs.start(
            connection, decision, author, job_id=None, batch_id=batch_id, now=ledger.now(), dry_run=dry_run,
            seen_at=seen_at,
        )  # fmt: skip
    for done in parts(ledger, decision, first):
        yield DecisionProgress(dry_run, done.number)


def _matching(
    ledger: Ledger, which: JobFilter, decision: Change, author: Author, *, seen_at: Micros | None, dry_run: bool
) -> Iterator[DecisionProgress]:
    """Jobs that are enqueued, or whose message is replaced, while this goes on are left alone: nobody has seen them."""
    began = ledger.now()
    with ledger.reading() as connection:
        if dry_run:
            yield DecisionProgress(dry_run, unfinished.count_unapproved(connection, which, now=began))
            return
        waiting = unfinished.unapproved_conditions(which, now=began, began=began)
        seen = seen_contents(connection, waiting, at=which.period.until if seen_at is None else seen_at)
    event = ActEvent(decision.kind.value, by=author.by, reason=author.reason, **event_fields(which))
    number, after = 0, None
    while True:
        now = ledger.now()
        with ledger.writing() as connection:
            ids, after = unfinished.unapproved(connection, which, after=after, now=now, began=began)
            done = waiting_jobs.decide_some(connection, ids, decision, author, seen=seen, act=event.id, now=now)
            event.add(connection, done, now=now)
        number += done
        yield DecisionProgress(dry_run, number)
        if after is None:
            return
