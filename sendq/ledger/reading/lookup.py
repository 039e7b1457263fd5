"""Finding a job or batch by its id or key, and reading one job with its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros, moment
from sendq.errors import NotFound, Pruned
from sendq.ids import parse_id
from sendq.ledger.db import schema
from sendq.ledger.reading.delivery import delivery_of
from sendq.ledger.reading.rows import as_list, as_one, first, next_start
from sendq.rules.waiting_job import is_held
from sendq.views import AttemptView, JobView


@dataclass(frozen=True, slots=True)
class Key:
    """What a key names: a job or a batch."""

    job_id: UUID | None
    batch_id: UUID | None
    created_at: Micros


def find_key(connection: Connection, application: str, key: str) -> Key:
    """What a key names. Raises `NotFound`."""
    table = schema.key
    found = first(connection, Key, table, table.c.application == application, table.c.key == key)
    if found is None:
        raise NotFound(f"no job or batch of application {application!r} was enqueued with this key")
    return found


def job_id(connection: Connection, given: str | UUID | None, application: str, key: str | None) -> UUID:
    """The id of a job that a caller names by its id or its key."""
    return _named(connection, given, application, key, what="job")


def batch_id(connection: Connection, given: str | UUID | None, application: str, key: str | None) -> UUID:
    """The id of a batch that a caller names by its id or its key."""
    return _named(connection, given, application, key, what="batch")


def _named(connection: Connection, given: str | UUID | None, application: str, key: str | None, *, what: str) -> UUID:
    if (given is None) == (key is None):
        raise TypeError(f"name the {what} either by its id or by its key")
    if given is not None:
        return parse_id(given, what=what)
    assert key is not None
    row = find_key(connection, application, key)
    found = row.job_id if what == "job" else row.batch_id
    if found is None:
        other = "batch" if what == "job" else "job"
        raise NotFound(f"this key names a {other}, not a {what}; ask with {other}(key=…)")
    table = schema.job if what == "job" else schema.batch
    if connection.execute(select(table.c.id).where(table.c.id == found)).first() is None:
        raise Pruned(what, str(found), f"{moment(row.created_at):%Y-%m-%d %H:%M}Z")
    return found


def no_such_job(job_id: UUID) -> NotFound:
    """The error for an id of which the ledger has no job, or no longer has one."""
    return NotFound(f"there is no job {job_id} in this ledger; it may have been pruned after its retention")


def no_such_batch(batch_id: UUID) -> NotFound:
    """The error for an id of a batch that the ledger does not have, or no longer has."""
    return NotFound(f"there is no batch {batch_id} in this ledger; it may have been pruned after its retention")


def job_or_batch(
    connection: Connection, job: str | UUID | None, batch: str | UUID | None, application: str, key: str | None
) -> tuple[UUID | None, UUID | None]:
    """The job or the batch, one of them, that a caller names: by its id, or by the key that either may have."""
    if sum(given is not None for given in (job, batch, key)) != 1:
        raise TypeError("name one job by its id, one batch by its id, or either by its key")
    if key is None:
        return (
            None if job is None else parse_id(job, what="job"),
            None if batch is None else parse_id(batch, what="batch"),
        )
    if find_key(connection, application, key).batch_id is None:
        return job_id(connection, None, application, key), None
    return None, batch_id(connection, None, application, key)


def job_row(connection: Connection, job_id: UUID) -> Row[Any]:
    """A job with its lane's application and grant. Raises `NotFound`."""
    job, lane = schema.job, schema.lane
    statement = (
        select(job, lane.c.application, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(job.c.id == job_id)
    )
    found = connection.execute(statement).first()
    if found is None:
        raise no_such_job(job_id)
    return found


def job(connection: Connection, job_id: UUID) -> JobView:
    """A job and its attempts, the oldest first. Raises `NotFound`."""
    row = job_row(connection, job_id)
    table = schema.attempt
    attempts = connection.execute(select(table).where(table.c.job_id == job_id).order_by(table.c.begun_at, table.c.id))
    trail = tuple(as_list(AttemptView, attempts))
    held = row.finished_at is None and is_held(row)  # a job that ends keeps its columns of the hold
    more = {"trail": trail, "delivery": delivery_of(connection, row), "held": held, "window": row.time_window}
    return as_one(JobView, row, next_at=next_start(row.next_at), **more)
