"""The warm-up of an account: its limit of messages a day grows from when an operator begins it."""

from __future__ import annotations

from sqlalchemy import Connection, select

from sendq.clock import Micros
from sendq.ids import lane_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.enqueue import notify
from sendq.ledger.operators.holds import lane_made_for
from sendq.rules.pace import pacer_of
from sendq.rules.warm_up import WarmUp, written

_lane = schema.lane.c


def warm_up_of(connection: Connection, application: str, grant_id: str) -> str | None:
    """The warm-up of a grant as it is stored; None: it has none, or had no job yet."""
    this = select(_lane.warm_up).where(_lane.id == lane_id(application, grant_id))
    stored: str | None = connection.execute(this).scalar()
    return stored


def set_warm_up(
    connection: Connection,
    application: str,
    grant_id: str,
    warm_up: WarmUp | None,
    *,
    by: str,
    reason: str,
    now: Micros,
) -> None:
    """Begin the warm-up of a grant now, or (None) end it.

    A grant that never had a job gets its lane now, so that the limit counts from its first job on.
    """
    lane = lane_made_for(connection, application, grant_id, now=now)
    change = lock_changes(connection, [lane])[lane]
    change.columns["warm_up"] = None if warm_up is None else written(warm_up, now)
    change.columns["ready_at"] = pacer_of(change.after, now=now).ready_at(now)
    notify(connection, at=write_changes(connection, [change], now=now))
    events.append(
        connection, "warm_up", at=now, by=by, application=application, provider=change.lane.provider,
        grant_id=grant_id, reason=f"{warm_up or 'none'}: {reason}",
    )  # fmt: skip
