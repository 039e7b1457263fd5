"""Holds of tags: jobs with a tag wait, while others of their lanes go on.

A hold is one row, and concerns jobs that come later too. No job is touched until it comes up in a turn of its lane: it
and those with the tag that are due behind it are then put off until the hold ends, and leave the way of the others.
Jobs without tags cost no query.

After a release the leader brings back what was put off, some at a time (`worker.leading.tag_holds`), and then deletes
the row. A claim locks the row before it puts jobs off, so that it puts none off behind the leader's back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, select, tuple_

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import one_of, update_rows
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import lock_jobs
from sendq.rules.rule_ids import TAG_HELD
from sendq.rules.states import State
from sendq.rules.tags import each_tag

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500

# Rows of a tag's index in one step of a release: most of a tag's jobs may have ended.
LOOK = 5_000

_hold = schema.tag_hold.c

Held = Mapping[tuple[str, str], Micros]  # by application and tag: until when


def are_held(
    connection: Connection, lanes: Mapping[UUID, Lane], jobs: Iterable[ClaimedJob], *, now: Micros, lock: bool = False
) -> Held:
    """The holds in force of the tags of these jobs, which have some; ``lock``: none of them ends before the commit."""
    names = {(lanes[job.lane_id].application, tag) for job in jobs for tag in each_tag(job.tags)}
    query = (
        select(_hold.application, _hold.tag, _hold.held_until)
        .where(tuple_(_hold.application, _hold.tag).in_(sorted(names)), _hold.held_until > now, ~_hold.released)
        .order_by(_hold.application, _hold.tag)
    )
    rows = connection.execute(query.with_for_update(read=True) if lock else query)
    return {(application, tag): until for application, tag, until in rows}


def hold_back(
    connection: Connection, lanes: Mapping[UUID, Lane], found: Sequence[ClaimedJob], *, now: Micros
) -> frozenset[UUID]:
    """Put off those of these jobs of which a tag is held, and others that are due behind them; returns all of them."""
    tagged = [job for job in found if job.tags is not None]
    if not tagged or not (held := are_held(connection, lanes, tagged, now=now)):
        return frozenset()
    held = are_held(connection, lanes, tagged, now=now, lock=True)
    ids: set[UUID] = set()
    for lane_id in {job.lane_id for job in tagged}:
        tags = [tag for application, tag in held if application == lanes[lane_id].application]
        ids.update(_due(connection, lane_id, tags, now=now))
    ids.update(job.id for job in tagged if _until(job.tags, lanes[job.lane_id].application, held))
    # Those that are not held too: the caller locks them later, and all are locked in the order of their ids.
    there = lock_jobs(connection, [*ids, *(job.id for job in found)])
    tags_of = _tags_of(connection, ids)
    rows = [
        {"id": job_id, "next_at": until, "rule": TAG_HELD}
        for job_id, job in there.items()
        if job_id in ids
        and job.state == State.QUEUED
        and job.next_at <= now  # it may have been held or rescheduled since it was read
        and (until := _until(tags_of[job_id], lanes[job.lane_id].application, held)) is not None
    ]
    update_rows(connection, schema.job, rows)
    return frozenset(ids)


def _due(connection: Connection, lane_id: UUID, tags: Sequence[str], *, now: Micros) -> Sequence[UUID]:
    """Some of a lane's jobs with one of these tags that are due."""
    job, tag = schema.job.c, schema.job_tag.c
    if not tags:
        return ()
    some = select(job.id).where(
        job.lane_id == lane_id, job.state == State.QUEUED.value, job.next_at <= now,
        job.id.in_(select(tag.job_id).where(one_of(connection, tag.tag, tags))),
    )  # fmt: skip
    return connection.execute(some.limit(STEP)).scalars().all()


def _tags_of(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, str | None]:
    job = schema.job.c
    return {row.id: row.tags for row in connection.execute(select(job.id, job.tags).where(job.id.in_(list(ids))))}


def _until(tags: str | None, application: str, held: Held) -> Micros | None:
    """When the last of the holds of these tags ends; None: none is held."""
    return max((held[application, tag] for tag in each_tag(tags) if (application, tag) in held), default=None)


# --- after a release --------------------------------------------------------------------------------------------------


def released(connection: Connection) -> list[tuple[str, str]]:
    """Holds that were released, by application and tag: what they put off is being brought back."""
    names = (_hold.application, _hold.tag)
    return [(application, tag) for application, tag in connection.execute(select(*names).where(_hold.released))]


def bring_back(
    connection: Connection, application: str, tag: str, *, after: UUID, now: Micros
) -> tuple[int, UUID | None]:
    """Bring back some jobs of a released hold; returns how many, and where to continue (None: the hold is gone).

    They start in the order of their enqueue. Those of which another tag is held are put off again at their next turn.
    """
    this = (_hold.application == application, _hold.tag == tag)
    row = connection.execute(select(schema.tag_hold).where(*this).with_for_update()).first()
    if row is None or not row.released:  # held again meanwhile
        return 0, None
    job, lane, index = schema.job.c, schema.lane.c, schema.job_tag.c
    look = select(index.job_id).where(index.tag == tag, index.job_id > after).order_by(index.job_id).limit(LOOK)
    candidates = connection.execute(look).scalars().all()
    put_off = (
        select(
            job.id, job.lane_id, job.priority, job.due_at, job.resume_at,
            lane.application, lane.grant_id, lane.provider,
        )
        .join(schema.lane, lane.id == job.lane_id)
        .where(
            one_of(connection, job.id, candidates), job.state == State.QUEUED.value, job.rule == TAG_HELD,
            job.next_at > now, lane.application == application,
        )
        .order_by(job.id)
        .limit(STEP)
        .with_for_update(of=schema.job)
    )  # fmt: skip
    rows: list[Row[Any]] = list(connection.execute(put_off)) if candidates else []
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
        return len(rows), None
    last: UUID = rows[-1].id if len(rows) == STEP else candidates[-1]
    return len(rows), last
