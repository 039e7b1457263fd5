"""Attempts: the one place that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from sqlalchemy import Connection, Uuid, bindparam, exists, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from sendq.facts.jobs import LockedJob
from sendq.facts.outcomes import Attempt
from sendq.ids import number
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import POSTGRESQL, Then, insert_new, insert_new_then, insert_rows
from sendq.ledger.jobs import lock_jobs


def append_attempts(connection: Connection, attempts: Sequence[Attempt]) -> None:
    """Write attempts that cannot exist yet."""
    insert_rows(connection, schema.attempt, [attempt._asdict() for attempt in attempts])


def replaced_untried(connection: Connection, job_id: UUID, application: str, grant_id: str) -> bool:
    """Whether a job's message has been replaced since the last call for it began."""
    attempt, event = schema.attempt.c, schema.event.c
    last = select(func.max(attempt.begun_at)).where(attempt.job_id == job_id).scalar_subquery()
    of_job = (event.grant_id == grant_id, event.application == application, event.job_id == job_id)
    replaced = exists().where(*of_job, event.kind == "replace", event.at >= last)
    return bool(connection.execute(select(replaced)).scalar())


def insert_new_and_lock(
    connection: Connection, attempts: Sequence[Attempt], jobs: Sequence[UUID]
) -> tuple[set[UUID], dict[UUID, LockedJob]]:
    """Write those attempts that do not exist yet, then lock ``jobs``: on PostgreSQL in one statement.

    Returns the ids of these attempts, and the jobs as `lock_jobs` does.
    """
    rows = [attempt._asdict() for attempt in attempts]
    if not rows or connection.dialect.name != "postgresql":
        return insert_new(connection, schema.attempt, rows, returning="id"), lock_jobs(connection, jobs)
    given = {"ids": sorted(set(jobs), key=number)}
    found = insert_new_then(connection, schema.attempt, rows, _and_lock(), given)
    fresh = {row[0] for row in found if row[1] is None}
    return fresh, {row[0]: LockedJob._make(row) for row in found if row[1] is not None}


@lru_cache
def _and_lock() -> Then:
    """The ids of the attempts with nulls, and the jobs, which have a state."""
    columns = [schema.job.c[name] for name in LockedJob._fields]
    nulls = ", ".join(f"CAST(NULL AS {column.type.compile(POSTGRESQL)})" for column in columns[1:])
    names = ", ".join(LockedJob._fields)
    jobs = f"SELECT {names} FROM sendq_job WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE"  # noqa: S608
    return Then(
        f"SELECT id, {nulls} FROM fresh UNION ALL SELECT * FROM ({jobs}) AS j",  # noqa: S608
        (bindparam("ids", type_=ARRAY(Uuid())),),
        tuple(columns),
    )
