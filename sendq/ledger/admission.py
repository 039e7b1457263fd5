"""How many jobs wait for a grant, when another would be carried out, and whether it is admitted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, select, true

from sendq.clock import Micros, moment
from sendq.errors import LaneFull
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.reading.holds import hold_ends
from sendq.ledger.reading.why import AHEAD_MOST
from sendq.rules.eta import predicted
from sendq.rules.expiry import EXPIRY
from sendq.rules.pace import SENDS
from sendq.rules.states import State
from sendq.rules.waiting_job import HELD
from sendq.rules.windows import next_opening
from sendq.views import Eta, Priority


def eta(
    connection: Connection,
    application: str,
    grant_id: str,
    call: str,
    *,
    priority: int,
    not_before: Micros,
    now: Micros,
    window: str | None = None,
) -> Eta:
    """When a job that is enqueued now would be carried out."""
    lane_at = lane_id(application, grant_id)
    lane = connection.execute(select(schema.lane).where(schema.lane.c.id == lane_at)).first()
    ahead = waiting(connection, lane_at, priority=priority, most=AHEAD_MOST, even_held=False)
    more = ahead == AHEAD_MOST
    opens_at = next_opening(window, max(now, not_before))
    if lane is None:
        at = predicted(None, call, ahead=ahead, now=now, not_before=opens_at)
        return Eta(moment(at), ahead, more, _expiry(call, at, opens_at))
    opens_at = next_opening(window or lane.time_window, opens_at)
    if lane.closed_at is not None:
        return Eta(None, ahead, more, _expiry(call, None, opens_at))
    held_until = hold_ends(connection, lane_at)
    begins_at = next_opening(window or lane.time_window, max(opens_at, held_until))
    at = predicted(lane, call, ahead=ahead, now=now, not_before=begins_at, width=lane.width)
    return Eta(moment(at), ahead, more, _expiry(call, at, opens_at))


def _expiry(call: str, at: Micros | None, due_at: Micros) -> datetime | None:
    """When a send that is due at ``due_at`` expires by default, if it does not start before."""
    expires_at = due_at + EXPIRY
    return moment(expires_at) if call in SENDS and (at is None or at >= expires_at) else None


def waiting(
    connection: Connection, lane: UUID, *, most: int, priority: int = Priority.LOW, even_held: bool = True
) -> int:
    """How many jobs of at least this priority wait in a lane; counts up to ``most``.

    ``even_held``: also those that a person holds.
    """
    table = schema.job.c
    some = (
        select(table.id)
        .where(table.lane_id == lane, table.state == State.QUEUED.value, table.priority <= priority)
        .where(true() if even_held else table.next_at < HELD)
        .limit(most)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def admit(connection: Connection, lanes: Iterable[tuple[str, str]], *, cap: int, now: Micros, more: int = 0) -> None:
    """Check that the lanes of these (application, grant) do not exceed ``cap`` with what this transaction stored, and
    with so many ``more`` jobs each.

    Concurrent transactions do not see each other's jobs: together they may exceed the cap.

    Raises:
        LaneFull: more than ``cap`` jobs would wait for a grant.
    """
    for application, grant_id in lanes:
        count = waiting(connection, lane_id(application, grant_id), most=cap + 1) + more
        if count > cap:
            when = eta(connection, application, grant_id, "send", priority=Priority.LOW, not_before=now, now=now)
            raise LaneFull(grant_id, waiting=cap, cap=cap, eta=when.at)
