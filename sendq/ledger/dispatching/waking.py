"""Wake rows: how lanes learn about new jobs, and how lanes and pairs are created.

Enqueueing does not write lanes: it appends a wake row, and the dispatcher processes those, many at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, select, text
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.lanes import FLOORS, UNKNOWN, Floors, Lane, Wake
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import insert_new, update_rows
from sendq.ledger.dispatching.lane_paces import name_providers, pace_columns
from sendq.ledger.dispatching.lanes import lock
from sendq.ledger.dispatching.pairs import make_pairs
from sendq.rules.pace import next_turn_at
from sendq.rules.paces import Paces

# An idle dispatcher does little else: it costs half as much as a DELETE of no rows.
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


def any_wakes(connection: Connection, *, above: int = 0) -> bool:
    """Whether there are wake rows: a cheap look before `take_wakes`."""
    return bool(constant.rows(connection, _ANY_WAKE, {"above": above}))


def take_wakes(connection: Connection, *, limit: int, above: int = 0) -> Sequence[Wake]:
    """Delete and return up to ``limit`` wake rows with ids above ``above``.

    Never pass the last id seen: ids are assigned before they are committed, so lower ones appear later.
    `sendq.rules.floors` determines what ``above`` may be.
    """
    return [Wake._make(row) for row in constant.rows(connection, _TAKE, {"above": above, "most": limit})]


def take_wakes_and_lock(
    connection: Connection, *, limit: int, above: int = 0
) -> tuple[Sequence[Wake], dict[UUID, Lane]]:
    """`take_wakes` of a few rows, and lock their lanes if all of them exist (or none): on PostgreSQL in one statement.

    If one has to be inserted, that comes before the first lock (`wake_lanes`).
    """
    if connection.dialect.name != "postgresql":
        wakes = take_wakes(connection, limit=limit, above=above)
        return wakes, lock(connection, {wake.lane_id for wake in wakes} if all(w.lane_exists for w in wakes) else ())
    rows = constant.rows(connection, _take_and_lock(), {"above": above, "most": limit})
    wakes = [Wake._make(row[:_WAKE_COLUMNS]) for row in rows]
    return wakes, {lane.id: lane for row in rows if (lane := Lane._make(row[_WAKE_COLUMNS:])).id is not None}


_WAKE_COLUMNS = len(Wake._fields)


@lru_cache
def _take_and_lock() -> Executable:
    taken = ", ".join(Wake._fields)
    lane = [schema.lane.c[name] for name in Lane._fields]
    statement = text(
        "WITH first AS MATERIALIZED (SELECT id FROM sendq_wake WHERE id > :above ORDER BY id LIMIT :most"  # noqa: S608
        " FOR UPDATE SKIP LOCKED),"
        f" taken ({taken}) AS (DELETE FROM sendq_wake WHERE id = ANY(ARRAY(SELECT id FROM first))"
        f" RETURNING {', '.join(Wake._fields[:-1])},"
        " (SELECT l.id FROM sendq_lane AS l WHERE l.id = sendq_wake.lane_id) IS NOT NULL),"
        f" locked AS (SELECT {', '.join(Lane._fields)} FROM sendq_lane"
        " WHERE id = ANY(ARRAY(SELECT lane_id FROM taken)) AND (SELECT bool_and(lane_exists) FROM taken)"
        " ORDER BY id FOR UPDATE)"
        f" SELECT {', '.join(f'taken.{name}' for name in Wake._fields)},"
        f" {', '.join(f'locked.{name}' for name in Lane._fields)}"
        " FROM taken LEFT JOIN locked ON locked.id = taken.lane_id ORDER BY taken.id"
    )
    types = [bindparam("above", type_=BigInteger), bindparam("most", type_=Integer)]
    return statement.bindparams(*types).columns(*(schema.wake.c[name] for name in Wake._fields[:-1]), *lane)


def wake_lanes(connection: Connection, wakes: Sequence[Wake], *, now: Micros, paces: Paces) -> None:
    """Make lanes due for their new jobs; lanes and pairs that are seen for the first time are created."""
    news = _merge(wakes)
    # All inserts come before the first lock. Another dispatcher may have locked a lane that exists, and be waiting for
    # one that is inserted here.
    pairs = _make_lanes(connection, news, now=now, paces=paces)
    lanes = lock(connection, news)
    write_woken(connection, _woken(lanes, news, now=now))
    named = {
        lane.id: new.provider
        for lane in lanes.values()
        if lane.provider == UNKNOWN and (new := news[lane.id]).provider is not None
    }
    make_pairs(connection, pairs | name_providers(connection, lanes, named, paces=paces))


def due_at_once(wakes: Sequence[Wake], lanes: Mapping[UUID, Lane], *, now: Micros) -> list[Lane] | None:
    """The (locked) lanes as `wake_lanes` would leave them, in the order of their new jobs, if all of them are then due.

    Nothing is written: pass them to `write_woken`, or claim their turns in the same transaction. None if one is not
    due, or if there is more to write.
    """
    news = _merge(wakes)
    if not wakes or not news.keys() <= lanes.keys():
        return None
    if any(lane.provider == UNKNOWN and news[lane.id].provider is not None for lane in lanes.values()):
        return None
    woken = _woken(lanes, news, now=now)
    is_due = (lane.turn is None and lane.next_at is not None and lane.next_at <= now for lane in woken)
    return woken if all(is_due) else None


def write_woken(connection: Connection, lanes: Sequence[Lane]) -> None:
    """Write when locked lanes are due, and their floors."""
    names = ("id", "next_at", *FLOORS)
    update_rows(connection, schema.lane, [{name: getattr(lane, name) for name in names} for lane in lanes])


def _woken(lanes: Mapping[UUID, Lane], news: Mapping[UUID, _News], *, now: Micros) -> list[Lane]:
    """The lanes with their new jobs, in the order of these."""
    woken = []
    in_order = sorted(lanes, key=lambda lane_id: news[lane_id].first)
    for place, lane_id in enumerate(in_order):
        lane, new = lanes[lane_id], news[lane_id]
        high, normal, low = lane.floors
        for priority, at in enumerate(new.earliest):
            if at is not None:
                high, normal, low = lower((high, normal, low), priority, at)
        # At most a few microseconds before now, whatever the jobs' times, and in order: scans begin near now.
        first = max(now - (len(in_order) - place), new.first)
        next_at = next_turn_at(first, ready_at=lane.ready_at, held_until=lane.held_until, closed=lane.is_closed)
        if next_at is not None and lane.next_at is not None:
            next_at = min(next_at, lane.next_at)
        woken.append(lane._replace(next_at=next_at, high_floor=high, normal_floor=normal, low_floor=low))
    return woken


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
