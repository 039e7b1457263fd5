"""Threads of mails that others follow with ``unless="replied"``: which are to be read, lane by lane in turn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Uuid,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
    text,
)

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, one_of
from sendq.rules.after import Unless, each_unless
from sendq.rules.states import State

# As long as fewer threads are to be read, the lanes of all of them are known; with more, the lanes are looked at in
# turn, up to `LANES` in each round, which takes some 20 ms.
CANDIDATES = LANES = 1_000

# Lanes whose oldest followers are found in one statement: a few more than are read at once.
STEP = 100

_after = schema.after.c
READS = text(schema.READS_THREAD)

# Each step of the recursion is one look-up in the index: the next lane that has a follower whose thread is to be read.
_NEXT = "SELECT lane_id FROM sendq_after WHERE {reads} AND lane_id > {above} ORDER BY lane_id LIMIT 1"
_NEXT_LANES = (
    text(
        "WITH RECURSIVE turn (lane_id, place) AS ("  # noqa: S608
        f" SELECT ({_NEXT.format(reads=schema.READS_THREAD, above=':above')}), 1"
        f" UNION ALL SELECT ({_NEXT.format(reads=schema.READS_THREAD, above='turn.lane_id')}), turn.place + 1"
        " FROM turn WHERE turn.lane_id IS NOT NULL AND turn.place < :most"
        ") SELECT lane_id FROM turn WHERE lane_id IS NOT NULL"
    )
    .bindparams(bindparam("above", type_=Uuid()), bindparam("most", type_=Integer()))
    .columns(lane_id=Uuid())
)
_ALL_LANES = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread to be read: that of a message that was sent with a grant."""

    job_id: UUID
    lane_id: UUID
    application: str
    grant_id: str
    provider: str
    message_id: str


def threads_to_read(
    connection: Connection, *, now: Micros, limit: int, busy: Collection[UUID], after: UUID = _ALL_LANES
) -> tuple[list[Thread], UUID]:
    """Threads to be read now, and where the next call continues: pass that as ``after``.

    At most one of each lane, that of the follower that waits longest; none of the lanes that are ``busy``, held or
    closed. Lanes have their turns in the order of their ids, so that one with many such threads delays no other.
    """
    lanes = _lanes_in_turn(connection, now=now, after=after)
    lane = schema.lane
    found: list[Any] = []
    for some in chunks([one for one in lanes if one not in busy], STEP):
        query = select(lane.c.id, lane.c.application, lane.c.grant_id, lane.c.provider, _oldest(now).label("job_id"))
        rows = connection.execute(query.where(one_of(connection, lane.c.id, some), ~_holds(now)))
        due = {row.id: row for row in rows if row.job_id is not None}
        found.extend(due[one] for one in some if one in due)
        if len(found) >= limit:
            break
    del found[limit:]
    ids = [row.job_id for row in found]
    query = select(_after.job_id, _after.message_id).where(_after.job_id.in_(ids))
    messages = {row.job_id: row.message_id for row in connection.execute(query)} if ids else {}
    threads = [
        Thread(row.job_id, row.id, row.application, row.grant_id, row.provider, message_id)
        for row in found
        if (message_id := messages.get(row.job_id)) is not None  # erased, or sent again, since the first statement
    ]
    if len(found) == limit:
        return threads, found[-1].id
    return threads, lanes[-1] if lanes else after


def _lanes_in_turn(connection: Connection, *, now: Micros, after: UUID) -> Sequence[UUID]:
    """Lanes that may have threads to be read now, in the order of their turns."""
    due = select(_after.lane_id).where(READS, _after.check_at <= now)
    first = due.order_by(_after.check_at, _after.job_id).limit(CANDIDATES)
    found = connection.execute(first).scalars().all()
    lanes = set(found)
    if len(found) == CANDIDATES:
        next_ones = connection.execute(_NEXT_LANES, {"above": after, "most": LANES}).scalars().all()
        lanes = set(next_ones)
        if len(next_ones) < LANES:
            lanes |= set(connection.execute(_NEXT_LANES, {"above": _ALL_LANES, "most": LANES}).scalars())
    return sorted(lanes, key=lambda lane: (lane <= after, lane))


def _oldest(now: Micros) -> Any:
    """The follower of a lane that waits longest for its thread to be read; none that was sent or has ended since."""
    query = select(_after.job_id).where(
        READS, _after.lane_id == schema.lane.c.id, _after.check_at <= now, waits_for_release()
    )
    return query.order_by(_after.check_at, _after.job_id).limit(1).correlate(schema.lane).scalar_subquery()


def waits_for_release() -> ColumnElement[bool]:
    """Whether a follower waits, and was certainly not sent."""
    # A scalar subquery: a join would let the planner read all jobs.
    job = schema.job.c
    state = select(job.state).where(job.id == _after.job_id, job.doubt_at.is_(None)).correlate(schema.after)
    return func.coalesce(state.scalar_subquery(), "") == State.QUEUED.value


def is_to_be_read(row: Row[Any]) -> bool:
    """As `schema.READS_THREAD`, of a row whose time is set."""
    is_reported = row.replied_at is not None or row.bounced_at is not None
    return Unless.REPLIED in each_unless(row.unless) and not is_reported and row.message_id is not None


def is_held(now: Micros) -> ColumnElement[bool]:
    """Whether the lane whose thread is to be read is held or closed: nothing is asked there."""
    return exists().where(schema.lane.c.id == _after.lane_id, _holds(now))


def _holds(now: Micros) -> ColumnElement[bool]:
    """Whether a lane is held or closed."""
    lane, pair = schema.lane.c, schema.pair.c
    of_pair = exists().where(
        and_(pair.application == lane.application, pair.provider.in_([lane.provider, "*"]), pair.held_until > now)
    )
    return or_(lane.closed_at.is_not(None), func.coalesce(lane.held_until, 0) > now, of_pair)
