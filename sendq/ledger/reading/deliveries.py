"""Deliveries of outcomes: their receivers and the result of the last try; the latest first."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, literal_column, select

from sendq.clock import moment
from sendq.ledger.db import schema
from sendq.ledger.deliveries import GIVEN_UP, WAITING
from sendq.ledger.outcomes import REAUTH_REQUIRED
from sendq.ledger.reading.filters import ALWAYS, ANYWHERE, LaneFilter, Period
from sendq.ledger.reading.paging import cursor, place, walk
from sendq.ledger.reading.rows import as_one
from sendq.views import DeliveryView, Page


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Which deliveries: those that match every given field.

    ``subject``: the id of the job, batch or lane that they are about. ``period``: when the outcome occurred.
    """

    scope: LaneFilter = ANYWHERE
    states: Collection[str] = ()
    kinds: Collection[str] = ()
    receiver: str | None = None
    subject: UUID | None = None
    period: Period = ALWAYS

    def conditions(self) -> list[ColumnElement[bool]]:
        """All but the subject and the period."""
        delivery = schema.delivery.c
        conditions = self.scope.conditions(delivery.lane_id)
        if self.states:
            conditions.append(delivery.state.in_(sorted(self.states)))
        if self.kinds:
            conditions.append(delivery.kind.in_(sorted(self.kinds)))
        return conditions if self.receiver is None else [*conditions, delivery.receiver == self.receiver]


def deliveries(
    connection: Connection, which: DeliveryQuery, *, after: str | None = None, limit: int
) -> Page[DeliveryView]:
    """Deliveries, the latest first. Raises `InvalidArgument` for an invalid cursor."""
    delivery, receiver, lane = schema.delivery, schema.receiver, schema.lane
    query = (
        select(delivery, receiver.c.held_until, lane.c.grant_id)
        .outerjoin(receiver, receiver.c.name == delivery.c.receiver)
        .outerjoin(lane, lane.c.id == delivery.c.lane_id)
    )
    within = which.period.of_ids(delivery.c.id)
    if set(which.states) == {GIVEN_UP}:
        within.append(delivery.c.state == literal_column(f"'{GIVEN_UP}'"))  # has its own index
    if which.subject is not None:
        within.append(delivery.c.subject == which.subject)
    rows, last = walk(
        connection, query, [delivery.c.id],
        within=within, filters=which.conditions(), after=place("deliveries", after, UUID), limit=limit,
    )  # fmt: skip
    views = []
    for row in rows:
        # Not before its receiver's hold ends.
        next_at = moment(max(row.next_at, row.held_until or 0)) if row.state == WAITING else None
        subject = row.grant_id if row.kind == REAUTH_REQUIRED else str(row.subject)
        views.append(as_one(DeliveryView, row, subject=subject, next_at=next_at, facts=json.loads(row.facts)))
    return Page(tuple(views), cursor("deliveries", last))
