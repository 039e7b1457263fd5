"""A canary: a separate lane that has a turn but no job.

It takes the whole path of a job except the call: a wake row, the dispatcher's round, a message through the broker, a
claim, the event loop, the recorder's commit. Its lane shows how far it got; each canary has a new lane (a lane's name
and fence are never reused), which is deleted afterwards.
"""

from __future__ import annotations

from enum import Enum
from uuid import UUID

from sqlalchemy import Connection, delete, select

from sendq.clock import SECOND, Micros
from sendq.ids import lane_id, new_id
from sendq.ledger.db import schema
from sendq.ledger.enqueue import append_wakes

APPLICATION = "(canary)"  # not a valid name of an application

# A canary whose caller was interrupted is deleted after this.
FORGOTTEN_AFTER: Micros = 3600 * SECOND


class Stage(Enum):
    """How far it got."""

    WAITS = "waits"  #        the dispatcher has not given it a turn yet
    OFFERED = "offered"  #    its turn is in the broker, or on its way
    RETURNED = "returned"  #  its turn came back unused: no broker, or no worker claimed it
    CLAIMED = "claimed"  #    a worker is carrying it out
    SERVED = "served"  #      that worker has committed its end


def name() -> str:
    """The name for a new canary."""
    return new_id().hex


def put(connection: Connection, canary: str, *, now: Micros) -> None:
    """Ask for a turn; call it again to replace a turn that came back unused."""
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
    """How far it has got."""
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
    """Delete it, and canaries left behind by interrupted callers. One that is in a turn is left for a later call."""
    wake, lane = schema.wake, schema.lane
    name: UUID = lane_id(APPLICATION, canary)
    connection.execute(delete(wake).where(wake.c.lane_id == name))
    ended = select(lane.c.id).where(lane.c.application == APPLICATION, lane.c.turn.is_(None))
    old = ended.where((lane.c.id == name) | (lane.c.created_at < now - FORGOTTEN_AFTER))
    ids = connection.execute(old.with_for_update(skip_locked=True)).scalars().all()
    connection.execute(delete(lane).where(lane.c.id.in_(ids)))
