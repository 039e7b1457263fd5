"""Whose a job or batch is: its application and grants, also before the dispatcher has seen them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, select

from sendq.ledger.db import schema
from sendq.ledger.reading.lookup import no_such_batch, no_such_job
from sendq.views.owner import Owner

job, batch, lane, wake = schema.job, schema.batch, schema.lane, schema.wake


def of_job(connection: Connection, job_id: UUID) -> Owner:
    """The owner of a job. Raises `NotFound`."""
    lane_id = connection.execute(select(job.c.lane_id).where(job.c.id == job_id)).scalar()
    if lane_id is None:
        raise no_such_job(job_id)
    application, grant_id = _lanes(connection, {lane_id})[0]
    return Owner(application, frozenset({grant_id}))


def of_batch(connection: Connection, batch_id: UUID) -> Owner:
    """The owner of a batch. With jobs of several grants it reads the batch's part of an index. Raises `NotFound`."""
    columns = (batch.c.application, batch.c.lane_id)
    found = connection.execute(select(*columns).where(batch.c.id == batch_id)).first()
    if found is None:
        raise no_such_batch(batch_id)
    lanes = {found.lane_id}
    if found.lane_id is None:
        lanes = set(connection.execute(select(job.c.lane_id).where(job.c.batch_id == batch_id).distinct()).scalars())
    return Owner(found.application, frozenset(grant_id for _, grant_id in _lanes(connection, lanes)))


def _lanes(connection: Connection, lane_ids: set[UUID]) -> list[tuple[str, str]]:
    """Application and grant of lanes. Those that the dispatcher has not seen yet are in its wakes.

    The dispatcher stores a lane in the transaction that deletes its wakes, so lanes are looked up again after them.
    """
    known: dict[UUID, tuple[str, str]] = {}
    for table, its_id in ((lane, lane.c.id), (wake, wake.c.lane_id), (lane, lane.c.id)):
        if missing := lane_ids - known.keys():
            columns = (its_id, table.c.application, table.c.grant_id)
            rows = connection.execute(select(*columns).where(its_id.in_(missing)).distinct())
            known |= {row[0]: (row[1], row[2]) for row in rows}
    return [known[lane_id] for lane_id in lane_ids]
