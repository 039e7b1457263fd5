"""Attempts: the one place that writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Column, Connection, Uuid, bindparam, exists, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from sendq.facts.jobs import LockedJob
from sendq.facts.lanes import Lane
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


class Inserted(NamedTuple):
    """The ids of the attempts that did not exist yet, and the jobs that were locked, as `lock_jobs` returns them."""

    fresh: set[UUID]
    jobs: dict[UUID, LockedJob]


def insert_new_and_lock(connection: Connection, attempts: Sequence[Attempt], jobs: Iterable[UUID]) -> Inserted:
    """Write those attempts that do not exist yet, then lock ``jobs``: on PostgreSQL in one statement."""
    rows = [attempt._asdict() for attempt in attempts]
    ids = sorted(set(jobs), key=number)
    if not rows or connection.dialect.name != "postgresql":
        return Inserted(insert_new(connection, schema.attempt, rows, returning="id"), lock_jobs(connection, ids))
    return _inserted(insert_new_then(connection, schema.attempt, rows, _and_lock(), {"ids": ids}))


def lock_lanes_and_insert_new(
    connection: Connection, lanes: Iterable[UUID], attempts: Sequence[Attempt], jobs: Iterable[UUID]
) -> tuple[dict[UUID, Lane], Inserted | None]:
    """PostgreSQL: lock ``lanes``, and then `insert_new_and_lock`, in one statement. There are attempts.

    None, and only the lanes are locked, if one of them remembers refused jobs: the outcomes may change these too, and
    all jobs are locked together.
    """
    rows = [attempt._asdict() for attempt in attempts]
    given = {"lanes": sorted(set(lanes), key=number), "ids": sorted(set(jobs), key=number)}
    found = insert_new_then(connection, schema.attempt, rows, _and_lock(lanes_first=True), given)
    width = len(Lane._fields)
    locked = {row[0]: Lane._make(row[:width]) for row in found if row[0] is not None}
    if any(lane.refused_jobs is not None for lane in locked.values()):
        return locked, None
    return locked, _inserted([row[width:] for row in found if row[0] is None])


def _inserted(rows: Iterable[tuple[Any, ...]]) -> Inserted:
    """From the ids of attempts with nulls, and jobs, which have a state."""
    found = Inserted(set(), {})
    for row in rows:
        if row[1] is None:
            found.fresh.add(row[0])
        else:
            found.jobs[row[0]] = LockedJob._make(row)
    return found


# Everything else in the statement depends on what it reads of all lanes, so they are locked before anything is written
# or another row is locked.
_NONE_REFUSED = "(SELECT count(refused_jobs) FROM l) = 0"


@lru_cache
def _and_lock(*, lanes_first: bool = False) -> Then:
    """The ids of the attempts with nulls, and the jobs; with ``lanes_first``, each after as many nulls as a lane has
    columns, and the lanes with nulls.
    """
    job = [schema.job.c[name] for name in LockedJob._fields]
    names, ids = ", ".join(LockedJob._fields), bindparam("ids", type_=ARRAY(Uuid()))
    wanted = f"SELECT {names} FROM sendq_job WHERE id = ANY(CAST(:ids AS uuid[]))"  # noqa: S608
    if not lanes_first:
        jobs = f"({wanted} ORDER BY id FOR UPDATE) AS j"
        return Then(
            f"SELECT id, {_nulls(job[1:])} FROM fresh UNION ALL SELECT * FROM {jobs}",  # noqa: S608
            (ids,),
            tuple(job),
        )
    lane = [schema.lane.c[name] for name in Lane._fields]
    lanes = f"SELECT {', '.join(Lane._fields)} FROM sendq_lane WHERE id = ANY(CAST(:lanes AS uuid[]))"  # noqa: S608
    jobs = f"({wanted} AND {_NONE_REFUSED} ORDER BY id FOR UPDATE) AS j"
    return Then(
        f"SELECT l.*, {_nulls(job)} FROM l"  # noqa: S608
        f" UNION ALL SELECT {_nulls(lane)}, id, {_nulls(job[1:])} FROM fresh"
        f" UNION ALL SELECT {_nulls(lane)}, j.* FROM {jobs}",
        (ids, bindparam("lanes", type_=ARRAY(Uuid()))),
        (*lane, *job),
        before=f"l AS MATERIALIZED ({lanes} ORDER BY id FOR UPDATE)",
        where=_NONE_REFUSED,
    )


def _nulls(columns: Iterable[Column[Any]]) -> str:
    return ", ".join(f"CAST(NULL AS {column.type.compile(POSTGRESQL)})" for column in columns)
