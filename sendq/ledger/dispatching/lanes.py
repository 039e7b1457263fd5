"""Lanes: locking them, and writing their changes together with their next turn.

To change a lane, lock its row in one statement and compute its next time in a later one. A single statement
that did both would see the jobs as they were before it waited for the lock, and miss one that was committed in
between. The later one may also write jobs, if none of them enters or leaves the queue. Several lanes are locked in the
order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Select, Uuid, bindparam, column, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.lanes import FLOORS, Floors, Lane
from sendq.ids import number
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import Then, one_of_given, update_rows
from sendq.rules.lane_change import LaneChange
from sendq.rules.pace import next_turn_at

NEVER: Micros = 2**62

Firsts = tuple[Micros | None, Micros | None, Micros | None]  # by priority: when the first waiting job is due
NOTHING_KNOWN: Mapping[UUID, Firsts] = {}


def lock(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Lane]:
    """Lock lanes, in the order of their ids, and read them as they are now."""
    wanted = sorted(set(ids), key=number)
    if not wanted:
        return {}
    rows = constant.rows(connection, _lock_of(connection.dialect.name), {"ids": wanted})
    return {row[0]: Lane._make(row) for row in rows}


@lru_cache
def _lock_of(dialect: str) -> Select[Any]:
    table = schema.lane
    return select(table).where(one_of_given(dialect, table.c.id)).order_by(table.c.id).with_for_update()


def lock_changes(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, LaneChange]:
    """Lock lanes in order to change them."""
    return {lane_id: LaneChange(lane) for lane_id, lane in lock(connection, ids).items()}


def write_changes(
    connection: Connection, changes: Iterable[LaneChange], *, now: Micros, known: Mapping[UUID, Firsts] = NOTHING_KNOWN
) -> Micros:
    """Write the changes of locked lanes, with the time at which each next wants a turn; returns the earliest of these.

    Call it after every job of these lanes has been written, in the same transaction. ``known``: what waits in some of
    them, as `first_waiting` would find it.
    """
    changed = {change.lane.id: change for change in changes if change.columns}
    if not changed:
        return NEVER
    lanes = {lane_id: changed[lane_id].after for lane_id in sorted(changed, key=number)}
    rest = {lane_id: lane.floors for lane_id, lane in lanes.items() if lane_id not in known}
    first = {**known, **first_waiting(connection, rest)} if rest else known
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}  # by the columns that change
    earliest = NEVER
    for lane_id, lane in lanes.items():
        waiting = first[lane_id]
        # Nothing waits at this priority: any later job has a wake row, which lowers the floor again.
        floors = {name: now if at is None else at for name, at in zip(FLOORS, waiting, strict=True)}
        due = [at for at in waiting if at is not None]
        # A lane that is already due goes behind those that have waited longer.
        next_at = next_turn_at(
            max(min(due), now) if due else None,
            ready_at=lane.ready_at,
            held_until=lane.held_until,
            closed=lane.is_closed,
        )
        if next_at is not None and lane.turn is None:
            earliest = min(earliest, next_at)
        row = {"id": lane_id, **changed[lane_id].columns, **floors, "next_at": next_at}
        rows.setdefault(tuple(sorted(row)), []).append(row)
    for alike in rows.values():
        update_rows(connection, schema.lane, alike)
    return earliest


def first_waiting(connection: Connection, floors: Mapping[UUID, Floors]) -> dict[UUID, Firsts]:
    """When the first waiting job of each lane is due, by priority; no waiting job is before its lane's floor."""
    if connection.dialect.name == "postgresql":
        return firsts_in(constant.rows(connection, _first_waiting_of("postgresql"), _in_columns(floors)))
    statement = _first_waiting_of("sqlite")
    result = {}
    for lane_id, (high, normal, low) in floors.items():
        values = {"lane": lane_id, "floor0": high, "floor1": normal, "floor2": low}
        row = connection.execute(statement, values).one()
        result[lane_id] = (row.at0, row.at1, row.at2)
    return result


def then_first_waiting(floors: Mapping[UUID, Floors]) -> tuple[Then, Mapping[str, Any]]:
    """PostgreSQL: the query of `first_waiting` as a part of another statement, with its parameters."""
    return _then_first_waiting(), _in_columns(floors)


def firsts_in(rows: Iterable[tuple[Any, ...]]) -> dict[UUID, Firsts]:
    """What PostgreSQL found, by lane."""
    return {lane: (at0, at1, at2) for lane, at0, at1, at2 in rows}


def _in_columns(floors: Mapping[UUID, Floors]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"lane": list(floors)}
    return columns | {f"floor{priority}": [of[priority] for of in floors.values()] for priority in range(len(FLOORS))}


@lru_cache
def _first_waiting_of(dialect: str) -> Executable:
    if dialect == "sqlite":
        return text(f"SELECT {_firsts(':')}").bindparams(bindparam("lane", type_=Uuid()))
    then = _then_first_waiting()
    return text(then.text).bindparams(*then.parameters).columns(*then.columns)


@lru_cache
def _then_first_waiting() -> Then:
    floors = [f"floor{priority}" for priority in range(len(FLOORS))]
    arrays = ", ".join(["CAST(:lane AS uuid[])"] + [f"CAST(:{floor} AS bigint[])" for floor in floors])
    return Then(
        f"SELECT v.lane, {_firsts('v.')} FROM unnest({arrays}) AS v (lane, {', '.join(floors)})",  # noqa: S608
        (bindparam("lane", type_=ARRAY(Uuid())), *(bindparam(floor, type_=ARRAY(BigInteger)) for floor in floors)),
        (column("lane", Uuid()), *(column(f"at{priority}", BigInteger()) for priority in range(len(FLOORS)))),
    )


def _firsts(prefix: str) -> str:
    return ", ".join(
        f"(SELECT next_at FROM sendq_job WHERE lane_id = {prefix}lane AND state = 'queued' AND priority = {priority}"  # noqa: S608
        f" AND next_at >= {prefix}floor{priority} ORDER BY next_at LIMIT 1) AS at{priority}"
        for priority in range(len(FLOORS))
    )
