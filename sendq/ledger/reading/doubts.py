"""Jobs in doubt: what is known about each, and when the mailbox is next searched for it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, select

from sendq.ledger.db import schema
from sendq.ledger.reading.filters import JobFilter
from sendq.ledger.reading.paging import cursor, in_states, place, walk
from sendq.ledger.reading.rows import as_list, columns_of
from sendq.rules.states import State
from sendq.views import Doubt, Page


def doubts(connection: Connection, which: JobFilter, *, after: str | None = None, limit: int) -> Page[Doubt]:
    """Jobs in doubt, the most recently enqueued first; ``period`` is when. Raises `InvalidArgument`."""
    job, lane = schema.job, schema.lane
    within = [in_states([State.IN_DOUBT]), *which.period.of_ids(job.c.id), *which.conditions()]
    query = select(*columns_of(Doubt, job), lane.c.application, lane.c.grant_id).outerjoin(
        lane, lane.c.id == job.c.lane_id
    )
    rows, last = walk(connection, query, [job.c.id], within=within, after=place("doubts", after, UUID), limit=limit)
    return Page(tuple(as_list(Doubt, rows)), cursor("doubts", last))
