"""Holds of tags: jobs with a tag wait, while others of their lanes go on.

A hold is one row, and concerns jobs that come later too. No job is touched until it comes up in a turn of its lane: it
and those with the tag that are due behind it are then put off until the hold ends, and leave the way of the others.
Jobs without tags cost no query. A send that may have gone out already is never put off: its repeat is safe only while
the API remembers its idempotency key.

Once a hold is over, released or not, the leader brings back what was put off for longer, some at a time
(`worker.leading.tag_holds`), and then deletes the row: the time until which a job was put off may be that of an earlier
hold of the tag. A new hold of the same tag takes over the row, and the leader begins again when that one is over. A
claim locks the row before it puts jobs off, so that it puts none off that the leader has already passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Text,
    Uuid,
    bindparam,
    delete,
    literal_column,
    select,
    text,
    tuple_,
    update,
)

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import one_of, update_rows
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import lock_jobs
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import AFTER, TAG_HELD
from sendq.rules.states import State
from sendq.rules.tags import each_tag

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500

# Rows of a tag's index in one step after a hold's end: most of a tag's jobs may have ended.
LOOK = 5_000

_hold = schema.tag_hold.c

Held = Mapping[tuple[str, str], Micros]  # by application and tag: until when


def with_tags(jobs: Iterable[ClaimedJob]) -> list[ClaimedJob]:
    """Those of these jobs that wait if one of their tags is held."""
    return [job for job in jobs if job.tags is not None and not must_be_repeated(job.operation, job.doubt_at)]


def are_held(
    connection: Connection, lanes: Mapping[UUID, Lane], jobs: Iterable[ClaimedJob], *, now: Micros, lock: bool = False
) -> Held:
    """The holds in force of the tags of these jobs, which have some; ``lock``: none of them ends before the commit."""
    names = {(lanes[job.lane_id].application, tag) for job in jobs for tag in each_tag(job.tags)}
    query = (
        select(_hold.application, _hold.tag, _hold.held_until)
        .where(tuple_(_hold.application, _hold.tag).in_(sorted(names)), _hold.held_until > now)
        .order_by(_hold.application, _hold.tag)
    )
    rows = connection.execute(query.with_for_update(read=True) if lock else query)
    return {(application, tag): until for application, tag, until in rows}


def hold_back(
    connection: Connection, lanes: Mapping[UUID, Lane], found: Sequence[ClaimedJob], *, now: Micros
) -> frozenset[UUID]:
    """Put off those of these jobs that have a held tag, and others that are due behind them; returns all of them."""
    tagged = [job for job in with_tags(found) if job.rule != AFTER]  # such a one waits for its job first
    if not tagged or not are_held(connection, lanes, tagged, now=now):
        return frozenset()
    held = are_held(connection, lanes, tagged, now=now, lock=True)
    ends = {job.id: end for job in tagged if (end := _end_of(job.tags, lanes[job.lane_id].application, held))}
    for lane_id in {job.lane_id for job in tagged if job.id in ends}:
        lane = lanes[lane_id]
        for job_id, tags in _due(connection, lane, now=now):
            if (end := _end_of(tags, lane.application, held)) is not None:
                ends[job_id] = end
    # Those that are not held too: the caller locks them later, and all are locked in the order of their ids.
    there = lock_jobs(connection, [*ends, *(job.id for job in found)])
    rows = [
        {"id": job_id, "next_at": end, "rule": TAG_HELD}
        for job_id, end in ends.items()
        if (job := there.get(job_id)) is not None
        and job.state == State.QUEUED
        and job.next_at <= now  # it may have been held or rescheduled since it was read
        and not must_be_repeated(job.operation, job.doubt_at)
    ]
    update_rows(connection, schema.job, rows)
    return frozenset(ends)


def _due(connection: Connection, lane: Lane, *, now: Micros) -> Sequence[tuple[UUID, str]]:
    """The first of a lane's jobs with tags that are due, by priority, and their tags."""
    found: list[tuple[UUID, str]] = []
    for priority, floor in enumerate(lane.floors):
        values = {"lane": lane.id, "priority": priority, "floor": floor, "now": now, "most": STEP - len(found)}
        values["parked"] = AFTER
        for job_id, tags, operation, doubt_at in constant.rows(connection, _DUE, values):
            if tags is not None and not must_be_repeated(operation, doubt_at):
                found.append((job_id, tags))
    return found


# In the order of the index of waiting jobs, limited to how many may be put off, so that it is cheap in any lane.
_DUE = (
    text(
        "SELECT id, tags, operation, doubt_at FROM sendq_job"
        " WHERE lane_id = :lane AND state = 'queued' AND priority = :priority AND next_at >= :floor AND next_at <= :now"
        " AND (rule IS NULL OR rule <> :parked)"
        " ORDER BY next_at, id LIMIT :most"
    )
    .bindparams(bindparam("lane", type_=Uuid()), bindparam("parked", type_=Text()))
    .columns(id=Uuid(), tags=Text(), operation=Text(), doubt_at=BigInteger())
)


def _end_of(tags: str | None, application: str, held: Held) -> Micros | None:
    """When the last of the holds of these tags ends; None: none is held."""
    return max((held[application, tag] for tag in each_tag(tags) if (application, tag) in held), default=None)


# --- after its end ----------------------------------------------------------------------------------------------------


def ended(connection: Connection, *, now: Micros) -> list[tuple[str, str]]:
    """Holds that are over, by application and tag: what they put off is being brought back."""
    over = select(_hold.application, _hold.tag).where(_hold.held_until <= now).order_by(_hold.application, _hold.tag)
    return [(application, tag) for application, tag in connection.execute(over)]


def bring_back(connection: Connection, application: str, tag: str, *, now: Micros) -> tuple[int, bool]:
    """Bring back some jobs of a hold that is over; returns how many, and whether there may be more.

    They start in the order of their enqueue. Those with another held tag are put off again at their next turn.
    """
    this = (_hold.application == application, _hold.tag == tag)
    row = connection.execute(select(schema.tag_hold).where(*this).with_for_update()).first()
    if row is None or row.held_until > now:  # held again meanwhile
        return 0, False
    index = schema.job_tag.c
    look = select(index.job_id).where(index.tag == tag).order_by(index.job_id).limit(LOOK)
    if row.brought_back_to is not None:
        look = look.where(index.job_id > row.brought_back_to)
    candidates = connection.execute(look).scalars().all()
    rows = _put_off(connection, application, candidates, now=now) if candidates else []
    # A microsecond apart, as for new jobs; one that was rescheduled meanwhile waits for its time.
    starts = {row.id: max(now + position, row.due_at) for position, row in enumerate(rows)}
    free = [row for row in rows if row.resume_at is None]
    changes = [{"id": row.id, "next_at": starts[row.id], "rule": None} for row in free]
    update_rows(connection, schema.job, changes)
    of_people = [{"id": row.id, "resume_at": starts[row.id], "rule": None} for row in rows if row.resume_at is not None]
    update_rows(connection, schema.job, of_people)
    if free:
        append_wakes(connection, wakes_of(free, starts), at=now)
    if len(rows) < STEP and len(candidates) < LOOK:
        connection.execute(delete(schema.tag_hold).where(*this))
        return len(rows), False
    last: UUID = rows[-1].id if len(rows) == STEP else candidates[-1]
    connection.execute(update(schema.tag_hold).where(*this).values(brought_back_to=last))
    return len(rows), True


def _put_off(
    connection: Connection, application: str, candidates: Sequence[UUID], *, now: Micros
) -> Sequence[Row[Any]]:
    """The first of these jobs that a held tag keeps waiting, locked."""
    job, lane = schema.job.c, schema.lane.c
    query = (
        select(
            job.id, job.lane_id, job.priority, job.due_at, job.resume_at,
            lane.application, lane.grant_id, lane.provider,
        )
        .join(schema.lane, lane.id == job.lane_id)
        .where(
            one_of(connection, job.id, candidates), job.state == literal_column(f"'{State.QUEUED.value}'"),
            job.rule == TAG_HELD, job.next_at > now, lane.application == application,
        )
        .order_by(job.id)
        .limit(STEP)
        .with_for_update(of=schema.job)
    )  # fmt: skip
    rows: list[Row[Any]] = list(connection.execute(query))
    return rows
