"""Windows at the claim: jobs whose window is closed are put off to its next opening, and others of their lane go on.

A job is looked at when it comes up in a turn of its lane: it and those that are due behind it and whose windows are
closed too are then put off, some at a time. Jobs without a window, in lanes without one, cost no query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Row, Text, Uuid, bindparam, select, text

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.jobs import lock_jobs
from sendq.rules.expiry import expiry_in, is_default
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import AFTER, OUTSIDE_WINDOW
from sendq.rules.states import State
from sendq.rules.windows import put_off_until

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500


def outside(lanes: Mapping[UUID, Lane], jobs: Sequence[ClaimedJob], *, now: Micros) -> dict[UUID, Micros]:
    """Those of these jobs whose window is closed, and when it opens."""
    return {
        job.id: opens_at
        for job in jobs
        if job.rule != AFTER  # it waits for its job first
        and (job.time_window or lanes[job.lane_id].time_window)
        and (opens_at := put_off_until(job, lanes[job.lane_id], now=now)) is not None
    }


def wait_for_windows(
    connection: Connection,
    lanes: Mapping[UUID, Lane],
    found: Sequence[ClaimedJob],
    waiting: frozenset[UUID],
    *,
    now: Micros,
) -> frozenset[UUID]:
    """Put off those of these jobs whose window is closed, and others that are due behind them; returns all of them.

    ``waiting``: jobs that have been put off already. If there are some, all of ``found`` are locked, and no others are
    put off, whose locks would come out of order.
    """
    opens = outside(lanes, [job for job in found if job.id not in waiting], now=now)
    if not opens:
        return frozenset()
    expiries = {job.id: expiry_in(lanes[job.lane_id].time_window, job) for job in found if job.id in opens}
    later = {job.id for job in found if job.id in opens and expiries[job.id] != job.expires_at}
    for lane_id in {job.lane_id for job in found if job.id in opens and not waiting}:
        lane = lanes[lane_id]
        for due in _due(connection, lane, now=now):
            if (opens_at := put_off_until(due, lane, now=now)) is not None:
                opens[due.id], expiries[due.id] = opens_at, expiry_in(lane.time_window, due)
                later |= {due.id} if expiries[due.id] != due.expires_at else set()
    # Those that are not put off too: the caller locks them later, and all are locked in the order of their ids.
    there = lock_jobs(connection, [*opens, *(job.id for job in found)])
    rows = [
        {"id": job_id, "next_at": opens_at, "rule": OUTSIDE_WINDOW}
        for job_id, opens_at in opens.items()
        if (job := there.get(job_id)) is not None
        and job.state == State.QUEUED
        and job.next_at <= now  # it may have been held or rescheduled since it was read
        and not must_be_repeated(job.operation, job.doubt_at)
    ]
    update_rows(connection, schema.job, rows)
    put_off = {row["id"] for row in rows}
    expire_later(connection, {job_id: expiries[job_id] for job_id in later & put_off})
    return frozenset(opens)


def expire_later(connection: Connection, expiries: Mapping[UUID, Micros | None]) -> None:
    """Move the expiry of those of these locked jobs that still have the default one."""
    if not expiries:
        return
    job = schema.job.c
    query = select(job.id, job.operation, job.due_at, job.expires_at).where(job.id.in_(list(expiries)))
    rows: list[Row[Any]] = list(connection.execute(query.order_by(job.id)))
    later = [{"id": row.id, "expires_at": expiries[row.id]} for row in rows if is_default(row)]
    update_rows(connection, schema.job, later)


class _Due(NamedTuple):
    """What decides whether a job that is due is put off, and when it expires."""

    id: UUID
    operation: str
    due_at: Micros
    expires_at: Micros | None
    doubt_at: Micros | None
    time_window: str | None


def _due(connection: Connection, lane: Lane, *, now: Micros) -> Sequence[_Due]:
    """The first of a lane's jobs that are due, by priority."""
    found: list[_Due] = []
    for priority, floor in enumerate(lane.floors):
        values = {"lane": lane.id, "priority": priority, "floor": floor, "now": now, "most": STEP - len(found)}
        values["parked"] = AFTER
        found += map(_Due._make, constant.rows(connection, _DUE, values))
    return found


# In the order of the index of waiting jobs, limited to how many may be put off, so that it is cheap in any lane.
_DUE = (
    text(
        "SELECT id, operation, due_at, expires_at, doubt_at, time_window FROM sendq_job"
        " WHERE lane_id = :lane AND state = 'queued' AND priority = :priority AND next_at >= :floor AND next_at <= :now"
        " AND (rule IS NULL OR rule <> :parked)"
        " ORDER BY next_at, id LIMIT :most"
    )
    .bindparams(bindparam("lane", type_=Uuid()), bindparam("parked", type_=Text()))
    .columns(
        id=Uuid(), operation=Text(), due_at=BigInteger(), expires_at=BigInteger(), doubt_at=BigInteger(),
        time_window=Text(),
    )
)  # fmt: skip
