"""Jobs that follow another, at enqueue: what they follow is checked, and their rows are stored.

The other job is not locked: its worker must not wait for the caller's transaction. Whatever becomes of it until that
commits is found by the leader, which looks at every job that waits (`sendq.ledger.dispatching.followers`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros, moment
from sendq.enqueueing.plan import Following, Plan, Planned
from sendq.errors import InvalidJob, Problem
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, insert_rows
from sendq.ledger.operators.erasure import forgotten_jobs
from sendq.ledger.reading.owner import lanes_of
from sendq.messages.reply_place import with_id
from sendq.rules.after import DEPTH_MOST, Stage, needs_message_id
from sendq.rules.expiry import first_chance
from sendq.rules.states import FINAL, State

_FAILED = tuple(sorted(FINAL - {State.SENT}))


def store_followings(connection: Connection, planned: Planned, found: Mapping[tuple[str, str], UUID]) -> None:
    """Store how the new jobs of a plan follow others. ``found``: the older jobs that its keys name instead of new ones.

    Raises:
        InvalidJob: one of them cannot follow the job that it names; roll back what was stored.
    """
    older = {
        job_id: found[name]
        for job_id, name in zip(planned.ids, planned.names, strict=True)
        if name is not None and name in found
    }
    new = [
        one._replace(after_id=older.get(one.after_id, one.after_id))
        for one in planned.plan.followings
        if one.job_id not in older
    ]
    if not new:
        return
    together = {job_id for job_id in planned.ids if job_id not in older}
    others = _read(connection, {one.after_id for one in new} - together)
    depths: dict[UUID, int] = {}
    rows = {row["id"]: row for row in planned.plan.jobs}
    begins: dict[UUID, Micros] = {}
    problems: list[Problem] = []
    for one in new:
        other = others.get(one.after_id)
        before = depths.get(one.after_id, 0) if other is None else other.depth or 0
        depths[one.job_id] = before + 1
        wrong = None if one.after_id in together else _problem(one, other)
        if wrong is None and before >= DEPTH_MOST:
            reason = f"would be the end of a chain of more than {DEPTH_MOST} jobs"
            wrong = Problem(_option(one), reason, "begin a new chain, with a due_at")
        row = rows[one.job_id]
        sent_at = begins.get(one.after_id) or _first_chance(other or rows.get(one.after_id), row["created_at"])
        begins[one.job_id] = first_chance(row.get("time_window"), max(row["due_at"], sent_at + one.delay))
        if wrong is None and row["expires_at"] is not None and row["expires_at"] <= begins[one.job_id]:
            reason = f"is before it can begin, which is at {moment(begins[one.job_id]):%Y-%m-%d %H:%M:%S} UTC at best"
            wrong = Problem("expires_at", reason, "pass a later time, or a shorter delay")
        if wrong is not None:
            problems.append(wrong.under(one.field) if one.field else wrong)
    if problems:
        raise InvalidJob(problems)
    for some in chunks(_row(one, depths[one.job_id]) for one in new):
        insert_rows(connection, schema.after, some)


def what_it_replies_to(connection: Connection, job_id: UUID) -> Row[Any] | None:
    """What this job replies to: its row of `sendq_after`; None: it is no reply to another job's message."""
    table = schema.after
    this = select(table).where(table.c.job_id == job_id, table.c.replies)
    return connection.execute(this).first()


def with_known_id(plan: Plan, follows: Row[Any]) -> Plan:
    """The plan of the one reply in it, with the id that the stored request has, if it was released before."""
    if follows.written_id is None:
        return plan
    (payload,) = plan.payloads
    body = with_id(payload["body"], follows.job_id, follows.written_id)
    length = None if payload["length"] is None else payload["length"] + len(body) - len(payload["body"])
    return replace(plan, payloads=[{**payload, "body": body, "length": length}])


def _first_chance(other: _Other | Mapping[str, Any] | None, now: Micros) -> Micros:
    """When a job that others follow was sent, or can be at best; ``other``: an older one, or a row of this call."""
    if other is None:
        return now
    if isinstance(other, _Other):
        return other.sent_at or first_chance(other.time_window, max(other.due_at, now))
    return first_chance(other.get("time_window"), max(other["due_at"], now))


def _row(one: Following, depth: int) -> dict[str, Any]:
    return {
        "job_id": one.job_id,
        "after_id": one.after_id,
        "stage": Stage.WAITING.value,
        "depth": depth,
        "delay": one.delay,
        "unless": one.unless,
        "replies": one.replies,
        "lifetime": one.lifetime,
    }


@dataclass(frozen=True, slots=True)
class _Other:
    """A job that others are to follow."""

    state: str
    operation: str
    lane_id: UUID
    application: str | None  # None: its lane does not exist yet
    message_id: str | None
    sent_at: Micros | None  # None: it was not sent yet
    due_at: Micros
    time_window: str | None
    depth: int | None  # its own place in a chain; None: it follows none
    forgotten: bool


def _read(connection: Connection, ids: Collection[UUID]) -> dict[UUID, _Other]:
    """These jobs, as they are now."""
    if not ids:
        return {}
    job, after = schema.job.c, schema.after.c
    rows = connection.execute(
        select(
            job.id,
            job.state,
            job.operation,
            job.lane_id,
            job.message_id,
            job.finished_at,
            job.due_at,
            job.time_window,
            after.depth,
        )
        .outerjoin(schema.after, after.job_id == job.id)
        .where(job.id.in_(ids))
    ).all()
    lanes = lanes_of(connection, {row.lane_id for row in rows})
    applications = {lane_id: application for lane_id, (application, _) in lanes.items()}
    forgotten = forgotten_jobs(connection, [row.id for row in rows if row.state == State.SENT])
    return {
        row.id: _Other(
            row.state, row.operation, row.lane_id, applications.get(row.lane_id), row.message_id,
            row.finished_at if row.state == State.SENT else None, row.due_at, row.time_window, row.depth,
            row.id in forgotten,
        )
        for row in rows
    }  # fmt: skip


def _option(one: Following) -> str:
    """The option that names the other job."""
    return "reply_to" if one.replies else "after"


def _problem(one: Following, other: _Other | None) -> Problem | None:
    """Why a job cannot follow the one that it names; None: it can."""
    name = _option(one)
    if other is None:
        reason = "is no job in this ledger: it never was, or was deleted after its retention"
        return Problem(name, reason, "pass a job that this queue returned, or use due_at")
    if other.application != one.application:
        return Problem(name, "is a job of another application", "enqueue both for the same application")
    if other.operation != "send":
        return Problem(name, "is not a send", "pass the job of a message")
    if other.state in _FAILED:
        remedy = (
            "enqueue both again" if other.state == State.CANCELLED else "retry that one first, or enqueue both again"
        )
        return Problem(name, f"has ended without being sent: it is {other.state}", remedy)
    if other.forgotten:
        return Problem(name, "is a job of a grant that was forgotten since", "enqueue both again")
    if one.replies and other.lane_id != one.lane_id:
        return Problem(name, "is a job of another grant", "send the reply with the grant of that job, or pass after")
    needs_id = needs_message_id(one.unless, replies=one.replies)
    if needs_id and other.state == State.SENT and other.message_id is None:
        reason = "was sent, but the id of its message is not known"
        return Problem(name, reason, "pass neither reply_to nor unless='replied'")
    return None
