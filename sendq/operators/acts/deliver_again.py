"""Retry deliveries of outcomes that were not accepted, a few hundred in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from sendq.errors import Problem
from sendq.filters import DeliveryFilter
from sendq.ids import parse_id
from sendq.ledger import deliveries
from sendq.ledger.deliveries import Wanted
from sendq.ledger.events import ActEvent
from sendq.operators.acts.checks import delivery_ids, lane_of, refuse
from sendq.operators.base import Ledger

# Per transaction: few enough that rows stay locked for milliseconds only.
STEP = 500


@dataclass(frozen=True, slots=True)
class DeliverAgainProgress:
    """The number of deliveries made due again so far, or (``dry_run``) that would be."""

    dry_run: bool
    retried: int = 0


def selection_of(which: DeliveryFilter | Sequence[str]) -> Wanted:
    """The deliveries that a caller selected. Raises `InvalidArgument` or `NotFound`."""
    if not isinstance(which, DeliveryFilter):
        return Wanted(ids=delivery_ids(which))
    if which == DeliveryFilter(application=which.application):
        refuse([Problem("which", "has no filter", "give at least one, like receiver or states")])
    if which.job_id is not None and which.batch_id is not None:
        refuse([Problem("batch_id", "cannot be given together with job_id", "give one of them")])
    return Wanted(
        states=tuple(which.states),
        kinds=tuple(which.kinds),
        receiver=which.receiver,
        subject=_subject(which),
        lane_id=lane_of(which.grant_id, which.application),
    )


def _subject(which: DeliveryFilter) -> UUID | None:
    if which.job_id is not None:
        return parse_id(which.job_id, what="job")
    return None if which.batch_id is None else parse_id(which.batch_id, what="batch")


def deliver_again(
    ledger: Ledger, which: Wanted, *, by: str, reason: str | None, dry_run: bool
) -> Iterator[DeliverAgainProgress]:
    """Make the selected deliveries due now; each part is one transaction."""
    if dry_run:
        with ledger.reading() as connection:
            yield DeliverAgainProgress(dry_run, deliveries.undelivered(connection, which))
        return
    event = ActEvent("deliveries_retried", by=by, reason=reason)
    number = 0
    after: UUID | None = None
    while True:
        with ledger.writing() as connection:
            now = ledger.now()
            done = deliveries.retry(connection, which, after=after, now=now, limit=STEP)
            event.add(connection, len(done), now=now)
        number += len(done)
        yield DeliverAgainProgress(dry_run, number)
        if len(done) < STEP:
            return
        after = done[-1]
