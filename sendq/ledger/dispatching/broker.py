"""Why turns do not reach workers, as far as the ledger knows: since when nothing can be published, no worker takes
turns, or dispatchers fail.

The broker cannot be asked by everybody (an application and an operator may reach the ledger alone), and it cannot say
whether workers read their queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select, update

from sendq.clock import Micros
from sendq.ledger.db import constant, schema


@dataclass(frozen=True, slots=True)
class BrokerTrouble:
    """``unpublished_since``: publishing fails; ``unclaimed_since``: no worker claims turns; ``failing_since``: rounds
    of dispatchers fail. None: it works.
    """

    unpublished_since: Micros | None
    unclaimed_since: Micros | None
    failing_since: Micros | None


def read(connection: Connection) -> BrokerTrouble:
    """The trouble there is now."""
    ((unpublished, unclaimed, failing),) = constant.rows(connection, _TROUBLE, {})
    return BrokerTrouble(unpublished, unclaimed, failing)


_LEADER = schema.leader.c
_TROUBLE = select(_LEADER.unpublished_since, _LEADER.unclaimed_since, _LEADER.failing_since)


def note_unpublished(connection: Connection, *, now: Micros) -> None:
    """Publishing has failed; remembered since the first time."""
    leader = schema.leader
    connection.execute(update(leader).values(unpublished_since=func.coalesce(leader.c.unpublished_since, now)))


def note_published(connection: Connection) -> None:
    """Publishing works."""
    leader = schema.leader
    connection.execute(update(leader).where(leader.c.unpublished_since.is_not(None)).values(unpublished_since=None))


def note_failing(connection: Connection, *, since: Micros) -> None:
    """Several rounds of a dispatcher in a row have failed; remembered since the first time."""
    leader = schema.leader
    connection.execute(update(leader).values(failing_since=func.coalesce(leader.c.failing_since, since)))


def note_round(connection: Connection) -> None:
    """A round of a dispatcher has succeeded."""
    leader = schema.leader
    connection.execute(update(leader).where(leader.c.failing_since.is_not(None)).values(failing_since=None))


def note_unclaimed(connection: Connection, *, since: Micros) -> None:
    """Turns that were offered before ``since`` have not been claimed; remembered since the first time."""
    leader = schema.leader
    connection.execute(update(leader).values(unclaimed_since=func.coalesce(leader.c.unclaimed_since, since)))


def note_claimed(connection: Connection, *, now: Micros) -> None:
    """Forget unclaimed turns if some are being claimed again, or no lane wants one."""
    lane, leader = schema.lane.c, schema.leader
    claimed = select(lane.id).where(lane.turn == "claimed").exists()
    due = and_(
        lane.turn.is_(None), lane.closed_at.is_(None), func.coalesce(lane.held_until, 0) <= now, lane.next_at <= now
    )
    offered = select(lane.id).where(or_(lane.turn == "offered", due))
    connection.execute(update(leader).where(or_(claimed, ~offered.exists())).values(unclaimed_since=None))
