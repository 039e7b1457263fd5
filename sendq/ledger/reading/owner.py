"""Whose a job or batch is: its application and grants, also before the dispatcher has seen them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks
from sendq.ledger.reading.lookup import no_such_batch, no_such_job
from sendq.scope import matches_grant
from sendq.views.owner import Owner

AT_ONCE = 10_000  # ids in one statement: databases allow 32,766 or more parameters

job, batch, lane, wake = schema.job, schema.batch, schema.lane, schema.wake


def of_job(connection: Connection, job_id: UUID) -> Owner:
    """The owner of a job. Raises `NotFound`."""
    found = of_jobs(connection, [job_id])
    if job_id not in found:
        raise no_such_job(job_id)
    return found[job_id]


def of_jobs(connection: Connection, job_ids: Iterable[UUID]) -> dict[UUID, Owner]:
    """The owners of many jobs by their ids; ids of no job are left out."""
    lanes: dict[UUID, UUID] = {}
    for some in chunks(job_ids, AT_ONCE):
        rows = connection.execute(select(job.c.id, job.c.lane_id).where(job.c.id.in_(some)))
        lanes |= {row.id: row.lane_id for row in rows}
    owners = {
        lane_id: Owner(application, frozenset({grant_id}))
        for lane_id, (application, grant_id) in lanes_of(connection, set(lanes.values())).items()
    }
    return {job_id: owners[lane_id] for job_id, lane_id in lanes.items()}


def of_batch(connection: Connection, batch_id: UUID) -> Owner:
    """The owner of a batch. With jobs of several grants it reads the batch's part of an index. Raises `NotFound`."""
    columns = (batch.c.application, batch.c.lane_id)
    found = connection.execute(select(*columns).where(batch.c.id == batch_id)).first()
    if found is None:
        raise no_such_batch(batch_id)
    lanes = {found.lane_id}
    if found.lane_id is None:
        lanes = set(connection.execute(select(job.c.lane_id).where(job.c.batch_id == batch_id).distinct()).scalars())
    owners = lanes_of(connection, lanes)
    return Owner(found.application, frozenset(owners[lane_id][1] for lane_id in lanes))


def require_grants(connection: Connection, batch_id: UUID, patterns: Collection[str] | None) -> None:
    """Raise `NotFound` unless every grant of a batch matches one of these patterns, and there is one. None: any may be.

    The batch must be locked, so that no other transaction adds to it meanwhile.
    """
    if patterns is None:
        return
    found = of_batch(connection, batch_id).grant_ids
    if not found or not all(covers(patterns, grant_id) for grant_id in found):
        raise no_such_batch(batch_id)


def covers(patterns: Collection[str], grant_id: str) -> bool:
    """Whether a grant matches one of these patterns."""
    return any(matches_grant(one, grant_id) for one in patterns)


def lanes_of(connection: Connection, lane_ids: set[UUID]) -> dict[UUID, tuple[str, str]]:
    """Application and grant of lanes by their ids; unknown ids are left out. Lanes that the dispatcher has not seen yet
    are in its wakes.

    The dispatcher stores a lane in the transaction that deletes its wakes, so lanes are looked up again after them.
    """
    known: dict[UUID, tuple[str, str]] = {}
    for table, its_id in ((lane, lane.c.id), (wake, wake.c.lane_id), (lane, lane.c.id)):
        columns = (its_id, table.c.application, table.c.grant_id)
        for some in chunks(lane_ids - known.keys(), AT_ONCE):
            rows = connection.execute(select(*columns).where(its_id.in_(some)).distinct())
            known |= {row[0]: (row[1], row[2]) for row in rows}
    return known
