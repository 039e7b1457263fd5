"""Offering turns: which lanes are due, which slots are free, and opening a turn that a worker may claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Integer, SmallInteger, Text, bindparam, null, select, text, update
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.lanes import Lane
from sendq.facts.turns import Turn
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import one_of_given
from sendq.ledger.dispatching.lanes import NEVER, lock_changes, write_changes
from sendq.ledger.dispatching.pairs import PairView


def due_lanes(
    connection: Connection, pair: PairView, *, now: Micros, limit: int, floor: Micros = 0
) -> list[tuple[UUID, int]]:
    """Due lanes of one pair, the longest-waiting first, with the calls each may make at once; locked."""
    values = {"of": pair.application, "with": pair.provider, "now": now, "most": limit, "floor": floor}
    return [(lane_id, ramp) for lane_id, ramp in constant.rows(connection, _DUE, values)]


def due_whole_lanes(
    connection: Connection, pair: PairView, *, now: Micros, limit: int, floor: Micros = 0
) -> list[Lane]:
    """`due_lanes` for a caller that means to claim their turns itself: their whole rows."""
    values = {"of": pair.application, "with": pair.provider, "now": now, "most": limit, "floor": floor}
    return [Lane._make(row) for row in constant.rows(connection, _DUE_WHOLE, values)]


def opened(lane: Lane, slots: int, *, now: Micros) -> Lane:
    """A due lane with the turn that `offer_turns` would open."""
    return lane._replace(turn="offered", fence=lane.fence + 1, turn_at=now, turn_worker=None, turn_slots=slots)


_LANE = schema.lane.c
_DUE_WHOLE = (
    select(schema.lane)
    .where(
        _LANE.application == bindparam("of", type_=Text),
        _LANE.provider == bindparam("with", type_=Text),
        _LANE.turn.is_(None),
        _LANE.next_at >= bindparam("floor", type_=BigInteger),
        _LANE.next_at <= bindparam("now", type_=BigInteger),
    )
    .order_by(_LANE.next_at)
    .limit(bindparam("most", type_=Integer))
    .with_for_update(skip_locked=True)
)
_DUE = _DUE_WHOLE.with_only_columns(_LANE.id, _LANE.ramp)


def offer_turns(connection: Connection, wanted: Sequence[tuple[UUID, int]], *, now: Micros) -> list[Turn]:
    """Open a turn for each of these lanes that has none, with the given calls at once: compare and set."""
    by_slots: dict[int, list[UUID]] = {}
    for lane_id, slots in wanted:
        by_slots.setdefault(slots, []).append(lane_id)
    statement = _offer_of(connection.dialect.name)
    fences: dict[UUID, int] = {}
    for slots, ids in by_slots.items():
        fences |= dict(constant.rows(connection, statement, {"ids": ids, "now": now, "slots": slots}))
    return [Turn(lane_id, fences[lane_id], slots) for lane_id, slots in wanted if lane_id in fences]


@lru_cache
def _offer_of(dialect: str) -> Executable:
    return (
        update(schema.lane)
        .where(one_of_given(dialect, _LANE.id), _LANE.turn.is_(None))
        .values(
            turn="offered",
            fence=_LANE.fence + 1,
            turn_at=bindparam("now", type_=BigInteger),
            turn_worker=null(),
            turn_slots=bindparam("slots", type_=SmallInteger),
        )
        .returning(_LANE.id, _LANE.fence)
    )


def give_back(connection: Connection, turns: Iterable[tuple[UUID, int]], *, now: Micros) -> Micros:
    """Close turns that were offered and not claimed; returns when the first of their lanes wants the next."""
    fences = dict(turns)
    changes = lock_changes(connection, fences)
    for lane_id, change in changes.items():
        if change.lane.is_offered and change.lane.fence == fences[lane_id]:
            change.close_turn()
    return write_changes(connection, changes.values(), now=now)


@dataclass(frozen=True, slots=True)
class Used:
    """Calls at once that the open turns of a pair may make: those of young turns, and of older ones."""

    young: int
    old: int
    first_at: Micros = field(default=0, compare=False)  # when the oldest of these turns was opened


_SLOTS = text(
    "SELECT w.capacity, u.application, u.provider, u.slots, u.young, u.first_at"
    " FROM (SELECT coalesce(sum(capacity), 0) AS capacity FROM sendq_worker WHERE NOT stopping) AS w LEFT JOIN"
    " (SELECT application, provider, sum(turn_slots) AS slots, min(turn_at) AS first_at,"
    " sum(CASE WHEN turn_at >= :old_before THEN turn_slots ELSE 0 END) AS young FROM sendq_lane"
    # A range with both ends: for one without an upper end, a planner without statistics expects a third of all lanes.
    " WHERE turn IS NOT NULL AND turn_at >= :floor AND turn_at < :never GROUP BY application, provider) AS u ON true"
)


def slots_in_use(
    connection: Connection, *, old_before: Micros, floor: Micros = 0
) -> tuple[int, dict[tuple[str, str], Used]]:
    """Calls at once that all workers can make, and how many of them turns opened since ``floor`` use, by
    (application, provider); turns opened before ``old_before`` are old.
    """
    values = {"old_before": old_before, "floor": floor, "never": NEVER}
    rows = constant.rows(connection, _SLOTS, values)
    used = {
        (application, provider): Used(int(young), int(slots) - int(young), first_at)
        for _, application, provider, slots, young, first_at in rows
        if application is not None
    }
    return int(rows[0][0]), used
