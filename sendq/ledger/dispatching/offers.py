"""Offering turns: which lanes are due, which slots are free, and opening a turn that a worker may claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    SmallInteger,
    Text,
    bindparam,
    case,
    func,
    null,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.lanes import Lane
from sendq.facts.turns import Turn
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import one_of_given
from sendq.ledger.dispatching.lanes import NEVER, lock_changes, write_changes
from sendq.ledger.dispatching.pairs import PairView, pairs_with_times, views_of
from sendq.rules.floors import Floors


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


@dataclass(frozen=True, slots=True)
class Overview:
    """What a round decides by: all pairs by name; the calls at once that all workers can make, and how many of them
    open turns use, by (application, provider).
    """

    pairs: list[PairView]
    capacity: int
    used: dict[tuple[str, str], Used]

    @property
    def free(self) -> int:
        """Calls at once that are left."""
        return self.capacity - sum(one.young + one.old for one in self.used.values())


def overview(connection: Connection, *, old_before: Micros, floors: Floors) -> Overview:
    """Turns opened before ``old_before`` are old; the scans begin at the ``floors``."""
    places = {name: f"floor{place}" for place, name in enumerate(sorted(floors.next_at))}
    values = {place: floors.next_at[name] for name, place in places.items()}
    values |= {"old_before": old_before, "turn_floor": floors.turn_at, "never": NEVER}
    rows = constant.rows(connection, _overview_of(tuple(places.items())), values)
    slots = [row[-_SLOT_COLUMNS:] + row[:2] for row in rows if row[-_SLOT_COLUMNS] is not None]
    used = {
        (application, provider): Used(int(young), int(of_all) - int(young), first_at)
        for _, of_all, young, first_at, application, provider in slots
        if application is not None
    }
    pairs = views_of(row[:-_SLOT_COLUMNS] for row in rows if row[-_SLOT_COLUMNS] is None)
    return Overview(sorted(pairs, key=lambda pair: (pair.application, pair.provider)), int(slots[0][0]), used)


# Of the rows that `_used` adds: the capacity, and a pair's slots.
_SLOT_COLUMNS = 4


# An idle dispatcher runs little else, and building the statement is half of its cost.
@lru_cache
def _overview_of(floors: tuple[tuple[tuple[str, str], str], ...]) -> Executable:
    """Two reads in one statement, which costs less than two: the rows of the pairs, and those of the open turns."""
    pairs, used = pairs_with_times(floors), _used()
    place = [null() for _ in range(_SLOT_COLUMNS)]
    filled = [*used.selected_columns[:2], *(null() for _ in pairs.selected_columns[2:]), *used.selected_columns[2:]]
    return union_all(pairs.add_columns(*place), used.with_only_columns(*filled))


def _used() -> Select[Any]:
    worker = select(func.coalesce(func.sum(schema.worker.c.capacity), 0).label("capacity"))
    all_of_them = worker.where(schema.worker.c.stopping.is_(False)).subquery("w")
    young = case((_LANE.turn_at >= bindparam("old_before", type_=BigInteger), _LANE.turn_slots), else_=0)
    open_turns = (
        select(
            _LANE.application,
            _LANE.provider,
            func.sum(_LANE.turn_slots).label("slots"),
            func.sum(young).label("young"),
            func.min(_LANE.turn_at).label("first_at"),
        )
        # A range with both ends: for one without an upper end, a planner without statistics expects a third of all
        # lanes.
        .where(
            _LANE.turn.is_not(None),
            _LANE.turn_at >= bindparam("turn_floor", type_=BigInteger),
            _LANE.turn_at < bindparam("never", type_=BigInteger),
        )
        .group_by(_LANE.application, _LANE.provider)
        .subquery("u")
    )
    mine = open_turns.c
    columns = mine.application, mine.provider, all_of_them.c.capacity, mine.slots, mine.young, mine.first_at
    return select(*columns).select_from(all_of_them.outerjoin(open_turns, true()))
