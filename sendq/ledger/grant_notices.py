"""Notifications from Nylas about grants: each is processed once, and applied to the grant's lane in one transaction.

`sendq.rules.grant_notices` decides what a notification does.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, update

from sendq.clock import Micros
from sendq.facts.lanes import Lane
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lanes import lock, write_changes
from sendq.rules.grant_notices import Change, Effect, Kind, effect_of
from sendq.rules.lane_change import LaneChange
from sendq.rules.rule_ids import GRANT_DELETED

EXPIRED = "grant_expired"
AUTHOR = "webhook"


def take_in(
    connection: Connection,
    notice_id: str,
    kind: Kind,
    at: Micros | None,
    *,
    application: str,
    grant_id: str,
    now: Micros,
) -> str:
    """Apply a notification to the grant's lane, unless it was processed before.

    ``at`` is its time by the clock of Nylas, ``application`` our name for the Nylas application whose webhook received
    it. Returns a sentence about what was done.
    """
    # Ids are unique for their source. If another transaction is processing the same one, this waits for its end. It is
    # remembered for an unknown grant too: replayed after the grant's first job, it must not act on old news.
    seen = {"id": f"{application}/{notice_id}", "at": now}
    if not insert_new(connection, schema.webhook, [seen], returning="id"):
        return "nothing to do: this notification was received before"
    lane_id = grants.lane_of(connection, application, grant_id)
    if lane_id is None:
        return "nothing to do: no job was ever enqueued for this grant"
    lane = lock(connection, [lane_id])[lane_id]
    effect = effect_of(kind, at, lane, now=now)
    _carry_out(connection, lane, effect, now=now)
    return effect.says


def _carry_out(connection: Connection, lane: Lane, effect: Effect, *, now: Micros) -> None:
    match effect.change:
        case Change.CLOSE:
            grants.close(connection, lane.id, rule=EXPIRED, by=AUTHOR, now=now)
        case Change.SUSPECT:
            _suspect(connection, lane, EXPIRED, now=now)
        case Change.SUSPECT_DELETED:
            _suspect(connection, lane, GRANT_DELETED, now=now)
        case Change.REOPEN:
            grants.reopen(connection, lane.id, by=AUTHOR, now=now)
        case Change.SIGNED_IN:
            if lane.opened_at is None or (effect.at is not None and lane.opened_at < effect.at):
                _set(connection, lane.id, opened_at=effect.at)
        case Change.CHECK:
            _set(connection, lane.id, check_at=now)
        case Change.NONE:
            pass


def _suspect(connection: Connection, lane: Lane, rule: str, *, now: Micros) -> None:
    change = LaneChange(lane)
    change.close(rule, at=lane.closed_at or now, check_at=now, suspected=True)
    change.restart_checks()
    write_changes(connection, [change], now=now)


def _set(connection: Connection, lane_id: UUID, **values: Micros | None) -> None:
    """Set columns that do not change when the lane is next due."""
    connection.execute(update(schema.lane).where(schema.lane.c.id == lane_id).values(**values))
