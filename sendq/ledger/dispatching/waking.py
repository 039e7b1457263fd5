"""Wake rows: how lanes learn about new jobs, and how lanes and pairs are created.

Enqueueing does not write lanes: it appends a wake row, and the dispatcher processes those, many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, select, text

from sendq.clock import Micros
from sendq.facts.lanes import FLOORS, Floors, Wake
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import insert_new, update_rows
from sendq.ledger.dispatching.lane_paces import name_providers, pace_columns
from sendq.ledger.dispatching.lanes import lock
from sendq.ledger.dispatching.pairs import make_pairs
from sendq.rules.pace import next_turn_at
from sendq.rules.paces import Paces

# Checked first, because an idle dispatcher does little else: it costs half as much as a DELETE of no rows.
_ANY_WAKE = text("SELECT 1 FROM sendq_wake WHERE id > :above LIMIT 1")


# A CTE is evaluated once. A planner may evaluate a subquery for each row, and then it locks more.
_SOME = (
    select(schema.wake.c.id)
    .where(schema.wake.c.id > bindparam("above", type_=BigInteger))
    .order_by(schema.wake.c.id)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
    .cte("some")
)
# No EXISTS, for which a planner may choose to read all lanes at once.
_LANE = select(schema.lane.c.id).where(schema.lane.c.id == schema.wake.c.lane_id).correlate(schema.wake)
_TAKE = (
    delete(schema.wake)
    .where(schema.wake.c.id.in_(select(_SOME.c.id)))
    .returning(*schema.wake.c, _LANE.scalar_subquery().is_not(None))
)


def take_wakes(connection: Connection, *, limit: int, above: int = 0) -> Sequence[Wake]:
    """Delete and return up to ``limit`` wake rows with ids above ``above``.

    Never pass the last id seen: ids are assigned before they are committed, so lower ones appear later.
    `sendq.rules.floors` determines what ``above`` may be.
    """
    if not constant.rows(connection, _ANY_WAKE, {"above": above}):
        return []
    return [Wake._make(row) for row in constant.rows(connection, _TAKE, {"above": above, "most": limit})]


def wake_lanes(connection: Connection, wakes: Sequence[Wake], *, now: Micros, paces: Paces) -> None:
    """Make lanes due for their new jobs; lanes and pairs that are seen for the first time are created."""
    news = _merge(wakes)
    # All inserts come before the first lock. Another dispatcher may have locked a lane that exists, and be waiting for
    # one that is inserted here.
    pairs = _make_lanes(connection, news, now=now, paces=paces)
    lanes = lock(connection, news)
    changes = []
    in_order = sorted(lanes, key=lambda lane_id: news[lane_id].first)
    for place, lane_id in enumerate(in_order):
        lane, new = lanes[lane_id], news[lane_id]
        floors = lane.floors
        for priority, at in enumerate(new.earliest):
            if at is not None:
                floors = lower(floors, priority, at)
        # At most a few microseconds before now, whatever the jobs' times, and in order: scans begin near now.
        first = max(now - (len(in_order) - place), new.first)
        next_at = next_turn_at(first, ready_at=lane.ready_at, held_until=lane.held_until, closed=lane.is_closed)
        if next_at is not None and lane.next_at is not None:
            next_at = min(next_at, lane.next_at)
        changes.append({"id": lane_id, "next_at": next_at, **dict(zip(FLOORS, floors, strict=True))})
    update_rows(connection, schema.lane, changes)
    named = {
        lane.id: new.provider
        for lane in lanes.values()
        if lane.provider == "unknown" and (new := news[lane.id]).provider is not None
    }
    make_pairs(connection, pairs | name_providers(connection, lanes, named, paces=paces))


def lower(floors: Floors, priority: int, at: Micros) -> Floors:
    """The floors once a job of ``priority`` waits from ``at``: no waiting job may be before its floor."""
    changed = list(floors)
    changed[priority] = min(changed[priority], at)
    return (changed[0], changed[1], changed[2])


@dataclass(slots=True)
class _News:
    application: str
    grant_id: str
    lane_exists: bool
    provider: str | None
    earliest: list[Micros | None]

    @property
    def first(self) -> Micros:
        """When the first of the new jobs is due."""
        return min(at for at in self.earliest if at is not None)


def _merge(wakes: Sequence[Wake]) -> dict[UUID, _News]:
    news: dict[UUID, _News] = {}
    for wake in wakes:
        new = news.setdefault(
            wake.lane_id, _News(wake.application, wake.grant_id, wake.lane_exists, None, [None, None, None])
        )
        new.provider = wake.provider or new.provider
        for priority, at in enumerate((wake.high_at, wake.normal_at, wake.low_at)):
            known = new.earliest[priority]
            if at is not None and (known is None or at < known):
                new.earliest[priority] = at
    return news


def _make_lanes(
    connection: Connection, news: Mapping[UUID, _News], *, now: Micros, paces: Paces
) -> set[tuple[str, str]]:
    """Create those of these lanes that do not exist yet; returns their pairs, which may not exist either."""
    lanes: list[dict[str, Any]] = []
    for lane_id, new in sorted(news.items()):
        if new.lane_exists:
            continue
        provider = paces.provider(new.application, new.provider)
        row = {"id": lane_id, "application": new.application, "grant_id": new.grant_id, "provider": provider}
        pace = pace_columns(paces, new.application, provider, new.grant_id)
        lanes.append(row | {"created_at": now, "ramp": 1} | pace)
    insert_new(connection, schema.lane, lanes, returning="id")
    return {(lane["application"], lane["provider"]) for lane in lanes}
