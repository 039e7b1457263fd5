"""What happened to grants and holds, and what operators did, the latest first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select

from sendq.ledger.db import schema
from sendq.ledger.reading.filters import ALWAYS, ANYWHERE, LaneFilter, Period
from sendq.ledger.reading.paging import cursor, place, walk
from sendq.ledger.reading.rows import as_list, columns_of
from sendq.views import EventView, Page


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: those that match every given field.

    The parts of an act on many things are left out, unless the filter names a grant or a job.
    """

    scope: LaneFilter = ANYWHERE
    kinds: Collection[str] = ()
    rule: str | None = None
    by: str | None = None
    job_id: UUID | None = None
    batch_id: UUID | None = None
    period: Period = ALWAYS

    def conditions(self) -> list[ColumnElement[bool]]:
        """All but the grant and the period."""
        event = schema.event.c
        found: list[ColumnElement[bool]] = [event.kind.in_(sorted(self.kinds))] if self.kinds else []
        if self.scope.grant is None and self.job_id is None:
            found.append(event.act.is_(None))
        for column, value in (
            (event.application, self.scope.application),
            (event.provider, self.scope.provider),
            (event.rule, self.rule),
            (event.by, self.by),
            (event.job_id, self.job_id),
            (event.batch_id, self.batch_id),
        ):
            if value is not None:
                found.append(column == value)
        return found


def events(connection: Connection, which: EventQuery, *, after: str | None = None, limit: int) -> Page[EventView]:
    """Events, the latest first. Raises `InvalidArgument` for an invalid cursor."""
    event = schema.event
    within = which.period.of_times(event.c.at)
    if which.scope.grant is not None:
        within.append(event.c.grant_id == which.scope.grant)
    rows, last = walk(
        connection, select(*columns_of(EventView, event)), [event.c.at, event.c.id],
        within=within, filters=which.conditions(), after=place("events", after, int, UUID), limit=limit,
    )  # fmt: skip
    return Page(tuple(as_list(EventView, rows)), cursor("events", last))
