"""A canary: a lane of its own that has a turn and no job.

It goes the whole way of a job but the call: a wake row, the dispatcher's round, a message through the broker, a claim,
the event loop, the recorder's commit. How far it came is read off its lane, which is new for each canary (a lane's name
and fence are never used again) and is cleared away afterwards.
"""

from __future__ import annotations

from enum import Enum
from uuid import UUID

from sqlalchemy import Connection, delete, select

from sendq.clock import SECOND, Micros
from sendq.ids import lane_id, new_id
from sendq.ledger.db import schema
from sendq.ledger.enqueue import append_wakes

APPLICATION = "(canary)"  # no name that an application can have

# What was not cleared away by whoever asked (they were interrupted) is so after this long.
FORGOTTEN_AFTER: Micros = 3600 * SECOND


class Stage(Enum):
    """How far it came."""

    WAITS = "waits"  #        the dispatcher has given it no turn yet
    OFFERED = "offered"  #    its turn is in the broker, or on its way
    RETURNED = "returned"  #  its turn came back unused: no broker, or nobody who claimed it
    CLAIMED = "claimed"  #    a worker has it in hand
    SERVED = "served"  #      that worker has committed its end


def name() -> str:
    """The name of a new one."""
    return new_id().hex


def put(connection: Connection, canary: str, *, now: Micros) -> None:
    """Ask for a turn; asked again, it makes up for one that came back unused."""
    wake = {
        "lane_id": lane_id(APPLICATION, canary),
        "application": APPLICATION,
        "grant_id": canary,
        "provider": None,
        "high_at": now,
        "normal_at": None,
        "low_at": None,
    }
    append_wakes(connection, [wake], at=now)


def look(connection: Connection, canary: str) -> Stage:
    """How far it is."""
    table = schema.lane.c
    wanted = select(table.turn, table.fence, table.next_at, table.served_at)
    row = connection.execute(wanted.where(table.id == lane_id(APPLICATION, canary))).first()
    if row is None:
        return Stage.WAITS
    if row.served_at is not None:
        return Stage.SERVED
    if row.turn == "claimed":
        return Stage.CLAIMED
    if row.turn is not None:
        return Stage.OFFERED
    return Stage.WAITS if row.next_at is not None or row.fence == 0 else Stage.RETURNED


def clear(connection: Connection, canary: str, *, now: Micros) -> None:
    """Take it away, with those that were forgotten. One that is in a turn just now is left to a later one."""
    wake, lane = schema.wake, schema.lane
    name: UUID = lane_id(APPLICATION, canary)
    connection.execute(delete(wake).where(wake.c.lane_id == name))
    ended = delete(lane).where(lane.c.application == APPLICATION, lane.c.turn.is_(None))
    connection.execute(ended.where((lane.c.id == name) | (lane.c.created_at < now - FORGOTTEN_AFTER)))
