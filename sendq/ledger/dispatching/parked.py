"""Followers that are parked: they wait until they are released, whatever else changes their time.

All locks are in one order: jobs, then the rows that say what they follow, by id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.rules.after import Stage
from sendq.rules.expiry import EXPIRY, first_chance
from sendq.rules.rule_ids import AFTER, NEEDS_APPROVAL
from sendq.rules.states import FINAL, State
from sendq.rules.waiting_job import HELD, approve_by_of, waits_for_approval

_after = schema.after.c
_ENDED = tuple(sorted(state.value for state in FINAL))


def park_again(connection: Connection, starts: Mapping[UUID, Micros], *, even_late: bool = False) -> set[UUID]:
    """Park those of these locked jobs that follow another; returns them. They were just put back into the queue, to
    begin at these times. ``even_late``: one that would expire before it may begin gets a new expiry.

    One waits again for the job that it follows, unless the send of that which it knows still stands. Then it waits for
    its time if it was never released; if it was, only ``unless`` counts again.
    """
    rows = lock_rows(connection, starts)
    if not rows:
        return set()
    other = schema.job.c
    those = select(other.id, other.state, other.finished_at).where(other.id.in_([row.after_id for row in rows]))
    others = {row.id: (row.state, row.finished_at) for row in connection.execute(those)}
    standing = {row.job_id: send_stands(row, *others.get(row.after_id, (None, None))) for row in rows}
    follows = [row for row in rows if row.released_at is None or row.unless is not None or not standing[row.job_id]]
    jobs = lock_followers(connection, [row.job_id for row in follows])
    marks, times = [], []
    for row in follows:
        job = jobs[row.job_id]
        begins, expires_at = max(starts[row.job_id], job.due_at, row.start_at or 0), job.expires_at
        if not standing[row.job_id]:
            begins = HELD
            expires_at = expires_at if row.lifetime is None else None
            marks.append({"job_id": row.job_id} | as_waiting(row))
        else:
            if row.released_at is None and row.lifetime is not None:
                expires_at = first_chance(job.time_window or job.of_lane, begins) + row.lifetime
            elif even_late and expires_at is not None and expires_at <= begins:
                expires_at = begins + EXPIRY
            as_it_was = {name: getattr(row, name) for name in as_waiting(row)}
            changes = {"stage": Stage.TIMED.value, "check_at": begins, "checks": 0, "trouble": None}
            marks.append({"job_id": row.job_id} | as_it_was | changes)
        times.append({"id": job.id, "expires_at": expires_at, "approve_by": approve_by(job, begins, expires_at)})
    update_rows(connection, schema.after, marks, key="job_id")
    update_rows(connection, schema.job, times)
    park(connection, list(jobs.values()))
    return set(jobs)


def released_followers(connection: Connection, jobs: Collection[UUID]) -> dict[UUID, UUID]:
    """Jobs that count on an earlier send of one of these jobs and have not ended, each with that job."""
    job = schema.job.c
    query = (
        select(_after.job_id, _after.after_id)
        .join(schema.job, job.id == _after.job_id)
        .where(_after.after_id.in_(list(jobs)), _after.start_at.is_not(None), job.state.not_in(_ENDED))
    )
    return {row.job_id: row.after_id for row in connection.execute(query)} if jobs else {}


def look_at_soon(connection: Connection, ids: Collection[UUID], *, now: Micros) -> None:
    """Look at these locked followers, which are on the wire or may have been sent, until that is known: one that comes
    back without having been sent must not begin as it is.
    """
    marks = [
        {"job_id": row.job_id, "stage": (Stage.RELEASED if row.stage == Stage.DONE else row.stage), "check_at": now}
        for row in lock_rows(connection, ids)
    ]
    update_rows(connection, schema.after, marks, key="job_id")


def send_stands(row: Row[Any], state: str | None, finished_at: Micros | None) -> bool:
    """Whether a follower's times count from the last send of the other job, whose ``state`` (None: it was deleted
    since) and time these are. It does not if the other was reported as never sent, whether or not it was sent again.
    """
    if row.start_at is None:
        return False
    return state is None or (state == State.SENT and finished_at == row.start_at - row.delay)


def as_waiting(row: Row[Any]) -> dict[str, Any]:
    """The columns of a follower that waits for its job, without what was known of an earlier send of that."""
    return {
        "stage": Stage.WAITING.value,
        "start_at": None,
        "message_id": None,
        "check_at": None,
        "checks": 0,
        "trouble": None,
        # Before its time is set, an answer is one to the send that will set it.
        "replied_at": None if row.start_at is not None else row.replied_at,
        "bounced_at": None,
        "released_at": None,
    }


def reschedule_parked(connection: Connection, ids: Collection[UUID], *, due_at: Micros) -> None:
    """Parked jobs, which are locked, have another due time: those whose job was sent are looked at then."""
    rows = [row for row in lock_rows(connection, ids) if row.stage == Stage.TIMED]
    if not rows:
        return
    begins = {row.job_id: max(row.start_at, due_at) for row in rows}
    times = [{"job_id": job_id, "check_at": at} for job_id, at in begins.items()]
    update_rows(connection, schema.after, times, key="job_id")
    jobs = [job for job in lock_followers(connection, list(begins)).values() if waits_for_approval(job)]
    limits = [{"id": job.id, "approve_by": approve_by(job, begins[job.id], job.expires_at)} for job in jobs]
    update_rows(connection, schema.job, limits)


def park(connection: Connection, jobs: Sequence[Row[Any]]) -> None:
    """Have locked jobs wait until they are released; a hold of a person, or the wait for approval, remains."""
    free = [{"id": job.id, "next_at": HELD, "rule": AFTER} for job in jobs if job.resume_at is None]
    update_rows(connection, schema.job, free)
    held = [job for job in jobs if job.resume_at is not None]
    update_rows(connection, schema.job, [{"id": job.id, "resume_at": HELD} for job in held])
    waiting = [{"id": job.id, "rule": AFTER} for job in held if job.rule != NEEDS_APPROVAL]
    update_rows(connection, schema.job, waiting)


def approve_by(job: Row[Any], begins: Micros, expires_at: Micros | None) -> Micros | None:
    """Until when a follower that may begin then can be approved; None: it needs no approval."""
    return approve_by_of(begins, expires_at, job.time_window) if waits_for_approval(job) else job.approve_by


def lock_rows(connection: Connection, ids: Collection[UUID]) -> Sequence[Row[Any]]:
    """How some jobs follow others, locked in the order of their ids: after the jobs, if those are locked too."""
    if not ids:
        return []
    query = select(schema.after).where(_after.job_id.in_(list(ids))).order_by(_after.job_id)
    return connection.execute(query.with_for_update()).all()


def lock_followers(connection: Connection, ids: Sequence[UUID]) -> Mapping[UUID, Row[Any]]:
    if not ids:
        return {}
    job, lane = schema.job, schema.lane.c
    query = (
        select(job, lane.application, lane.grant_id, lane.provider, lane.time_window.label("of_lane"))
        .outerjoin(schema.lane, lane.id == job.c.lane_id)
        .where(job.c.id.in_(ids))
        .order_by(job.c.id)
        .with_for_update(of=job)
    )
    return {row.id: row for row in connection.execute(query)}
