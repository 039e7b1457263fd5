"""Lists of batches, the latest first: their ids sort by the time of their enqueue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.clock import moment
from sendq.ledger.batches import ADDED, sums_of
from sendq.ledger.db import schema
from sendq.ledger.jobs import COUNTED
from sendq.ledger.reading.filters import ALWAYS, ANYWHERE, LaneFilter, Period
from sendq.ledger.reading.paging import cursor, place, walk
from sendq.ledger.reading.rows import as_one, columns_of
from sendq.rules.states import State
from sendq.views import BatchLine, Page


@dataclass(frozen=True, slots=True)
class BatchQuery:
    """Which batches: those that match every given field. ``finished``: whether their last job has ended."""

    scope: LaneFilter = ANYWHERE
    finished: bool | None = None
    period: Period = ALWAYS


def batches(connection: Connection, which: BatchQuery, *, after: str | None = None, limit: int) -> Page[BatchLine]:
    """Batches, the most recently enqueued first."""
    table, lane = schema.batch, schema.lane
    query = select(*columns_of(BatchLine, table), table.c.cancel_at, lane.c.grant_id).outerjoin(
        lane, lane.c.id == table.c.lane_id
    )
    scope = which.scope
    filters = replace(scope, application=scope.application if scope.grant else None).conditions(table.c.lane_id)
    if scope.application is not None:
        filters.append(table.c.application == scope.application)
    if which.finished is not None:
        over = table.c.finished_at
        filters.append(over.is_not(None) if which.finished else over.is_(None))
    rows, last = walk(
        connection, query, [table.c.id],
        within=which.period.of_ids(table.c.id), filters=filters, after=place("batches", after, UUID), limit=limit,
    )  # fmt: skip
    sums = sums_of(connection, [row.id for row in rows])
    # Of an open batch, what was added so far.
    totals = {row.id: sums[row.id].get(ADDED, 0) if row.open else row.total for row in rows}
    lines = tuple(
        as_one(
            BatchLine,
            row,
            total=totals[row.id],
            counts={
                state: sums[row.id][state.value] for state in State if state in COUNTED and sums[row.id].get(state)
            },
            cancelled_at=None if row.cancel_at is None else moment(row.cancel_at),
        )
        for row in rows
    )
    return Page(lines, cursor("batches", last))
