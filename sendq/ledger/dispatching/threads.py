"""Threads of mails that others follow with ``unless="replied"``: which are to be read, and reported answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, or_, select

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.parked import lock_rows
from sendq.rules.after import Stage, Unless, each_unless

# Of the followers whose threads are to be read, the first of each lane is found among this many.
CANDIDATES = 2_000

_after = schema.after.c


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread to be read: that of a message that was sent with a grant."""

    job_id: UUID
    lane_id: UUID
    application: str
    grant_id: str
    provider: str
    message_id: str


def threads_to_read(connection: Connection, *, now: Micros, limit: int, busy: Collection[UUID]) -> list[Thread]:
    """Threads to be read now: at most one of each lane, none of the lanes that are ``busy``, held or closed.

    Those of the followers that wait longest come first.
    """
    lane = schema.lane.c
    candidates = (
        select(_after.job_id, _after.lane_id, _after.check_at)
        .where(_after.check_at <= now, reads_thread(), _after.lane_id.not_in(sorted(busy)), ~is_held(now))
        .order_by(_after.check_at, _after.job_id)
        .limit(CANDIDATES)
        .subquery()
    ).c
    place = func.row_number().over(partition_by=candidates.lane_id, order_by=(candidates.check_at, candidates.job_id))
    ranked = select(candidates.job_id, candidates.check_at, place.label("place")).subquery().c
    first = select(ranked.job_id).where(ranked.place == 1).order_by(ranked.check_at, ranked.job_id).limit(limit)
    rows = connection.execute(
        select(_after.job_id, _after.lane_id, _after.message_id, lane.application, lane.grant_id, lane.provider)
        .join(schema.lane, lane.id == _after.lane_id)
        .where(_after.job_id.in_(connection.execute(first).scalars().all()))
        .order_by(_after.check_at, _after.job_id)
    )
    return [
        Thread(row.job_id, row.lane_id, row.application, row.grant_id, row.provider, row.message_id) for row in rows
    ]


def note_reply(connection: Connection, answers: Mapping[UUID, Micros], *, now: Micros) -> set[UUID]:
    """Answers to the mails of these jobs were reported, at these times: what follows them is looked at at once. Returns
    those of the jobs that some other followed with ``unless="replied"``.
    """
    answered = {job_id: job_id for job_id in answers}  # by job: the one in whose thread it is
    unless: set[UUID] = set()
    wanted = set(answers)
    while wanted:  # down the chain, as far as its messages are in the same thread
        query = select(_after.job_id, _after.after_id, _after.unless, _after.replies).order_by(_after.job_id)
        rows = connection.execute(query.where(_after.after_id.in_(wanted), _after.stage != Stage.DONE.value)).all()
        unless |= {row.job_id for row in rows if Unless.REPLIED in each_unless(row.unless)}
        more = [row for row in rows if row.job_id not in answered]
        answered |= {row.job_id: answered[row.after_id] for row in more}
        wanted = {row.job_id for row in more if row.replies}
    open_ = [row for row in lock_rows(connection, unless) if row.stage != Stage.DONE and row.replied_at is None]
    marked = [
        {
            "job_id": row.job_id,
            "replied_at": answers[answered[row.job_id]],
            "check_at": None if row.check_at is None else now,
        }
        for row in open_
    ]
    update_rows(connection, schema.after, marked, key="job_id")
    return {answered[row.job_id] for row in open_}


def is_to_be_read(row: Row[Any]) -> bool:
    """As `reads_thread`, of a row."""
    return Unless.REPLIED in each_unless(row.unless) and row.replied_at is None and row.message_id is not None


def reads_thread() -> ColumnElement[bool]:
    """Whether a thread is to be read before a follower is sent."""
    # Never null, so that it can be negated.
    wanted = and_(_after.unless.is_not(None), _after.unless.like(f"%{Unless.REPLIED}%"))
    return and_(wanted, _after.replied_at.is_(None), _after.message_id.is_not(None))


def is_held(now: Micros) -> ColumnElement[bool]:
    """Whether the lane whose thread is to be read is held or closed: nothing is asked there."""
    lane, pair = schema.lane.c, schema.pair.c
    of_pair = exists().where(
        pair.application == lane.application, pair.provider.in_([lane.provider, "*"]), pair.held_until > now
    )
    held = or_(lane.closed_at.is_not(None), lane.held_until > now, of_pair)
    return exists().where(lane.id == _after.lane_id, held)
