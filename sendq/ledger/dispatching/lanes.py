"""Lanes: locking them, and writing their changes together with their next turn.

To change a lane, lock its row in one statement and compute its next time in a later one. A single statement
that did both would see the jobs as they were before it waited for the lock, and miss one that was committed in
between. The later one may also write jobs, if none of them enters or leaves the queue. Several lanes are locked in the
order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Connection, Select, Uuid, bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from sendq.clock import Micros
from sendq.facts.lanes import FLOORS, Floors, Lane
from sendq.ids import number
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import Computed, Then, execute_alone, one_of_given, then_update, update_rows
from sendq.rules.lane_change import LaneChange
from sendq.rules.pace import next_turn_at

NEVER: Micros = 2**62

Firsts = tuple[Micros | None, Micros | None, Micros | None]  # by priority: when the first waiting job is due


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


def write_changes(connection: Connection, changes: Iterable[LaneChange], *, now: Micros) -> Micros:
    """Write the changes of locked lanes, with the time at which each next wants a turn; returns the earliest of these.

    Call it after every job of these lanes has been written, in the same transaction.
    """
    changed = [change for change in changes if change.columns]
    if not changed:
        return NEVER
    if connection.dialect.name != "postgresql":
        return write_found(connection, changed, _first_waiting_one_by_one(connection, _floors(changed)), now=now)
    parts = [_then_write(rows, now=now) for rows in _alike(changed, now=now)]
    return min(earliest(execute_alone(connection, *part)) for part in parts)


def then_write_changes(changes: Iterable[LaneChange], *, now: Micros) -> tuple[Then, Mapping[str, Any]] | None:
    """PostgreSQL: `write_changes` as part of the statement that writes jobs of these lanes, with its parameters. None
    if nothing is to be written, or not in one statement.

    It sees the jobs as they were before that statement. Its rows are for `earliest`.
    """
    parts = _alike([change for change in changes if change.columns], now=now)
    return _then_write(parts[0], now=now) if len(parts) == 1 else None


def earliest(written: Iterable[tuple[Any, ...]]) -> Micros:
    """When the first of some lanes wants a turn, of those that have none: from their next times and turns."""
    return min((next_at for next_at, turn in written if next_at is not None and turn is None), default=NEVER)


def write_found(
    connection: Connection, changed: Sequence[LaneChange], first: Mapping[UUID, Firsts], *, now: Micros
) -> Micros:
    """`write_changes` after `first_waiting`."""
    alike = _alike(changed, now=now)
    for row in (row for rows in alike for row in rows):
        waiting, soonest = first[row["id"]], row["next_at"]
        due = [at for at in waiting if at is not None]
        # As `_COMPUTED`.
        row |= {name: now if at is None else at for name, at in zip(FLOORS, waiting, strict=True)}
        row["next_at"] = max(min(due), soonest) if due and soonest is not None else None
    for rows in alike:
        update_rows(connection, schema.lane, rows)
    turns = {change.lane.id: change.after.turn for change in changed}
    return earliest((row["next_at"], turns[row["id"]]) for rows in alike for row in rows)


def _floors(changed: Iterable[LaneChange]) -> dict[UUID, Floors]:
    return {change.lane.id: change.after.floors for change in changed}


def _alike(changed: Iterable[LaneChange], *, now: Micros) -> list[list[dict[str, Any]]]:
    """The rows to write, by the columns that change, with the floors from where to look for waiting jobs; as the next
    time, when the lane would want a turn if a job was due now.

    So a lane that is already due goes behind those that have waited longer.
    """
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for change in sorted(changed, key=lambda change: number(change.lane.id)):
        lane = change.after
        soonest = next_turn_at(now, ready_at=lane.ready_at, held_until=lane.held_until, closed=lane.is_closed)
        floors = dict(zip(FLOORS, lane.floors, strict=True))
        row = {"id": lane.id, **change.columns, **floors, "next_at": soonest}
        rows.setdefault(tuple(sorted(row)), []).append(row)
    return list(rows.values())


def _then_write(rows: Sequence[Mapping[str, Any]], *, now: Micros) -> tuple[Then, Mapping[str, Any]]:
    then, values = then_update(schema.lane, rows, _COMPUTED)
    return then, values | {"lanes_now": now}


def first_waiting(connection: Connection, floors: Mapping[UUID, Floors]) -> dict[UUID, Firsts]:
    """When the first waiting job of each lane is due, by priority; no waiting job is before its lane's floor."""
    if connection.dialect.name != "postgresql":
        return _first_waiting_one_by_one(connection, floors)
    columns: dict[str, Any] = {"lane": list(floors)}
    columns |= {f"floor{priority}": [of[priority] for of in floors.values()] for priority in range(len(FLOORS))}
    found = constant.rows(connection, _FIRST_WAITING, columns)
    return {lane: (at0, at1, at2) for lane, at0, at1, at2 in found}


def _first_waiting_one_by_one(connection: Connection, floors: Mapping[UUID, Floors]) -> dict[UUID, Firsts]:
    result = {}
    for lane_id, (high, normal, low) in floors.items():
        values = {"lane": lane_id, "floor0": high, "floor1": normal, "floor2": low}
        row = connection.execute(_FIRST_WAITING_OF_ONE, values).one()
        result[lane_id] = (row.at0, row.at1, row.at2)
    return result


def _firsts(lane: str, floors: Iterable[str]) -> str:
    return ", ".join(
        f"(SELECT next_at FROM sendq_job WHERE lane_id = {lane} AND state = 'queued' AND priority = {priority}"  # noqa: S608
        f" AND next_at >= {floor} ORDER BY next_at LIMIT 1) AS at{priority}"
        for priority, floor in enumerate(floors)
    )


_FIRST_WAITING_OF_ONE = text(f"SELECT {_firsts(':lane', (':floor0', ':floor1', ':floor2'))}").bindparams(
    bindparam("lane", type_=Uuid())
)
_FIRST_WAITING = (
    text(
        f"SELECT v.lane, {_firsts('v.lane', ('v.floor0', 'v.floor1', 'v.floor2'))}"  # noqa: S608
        " FROM unnest(CAST(:lane AS uuid[]), CAST(:floor0 AS bigint[]), CAST(:floor1 AS bigint[]),"
        " CAST(:floor2 AS bigint[])) AS v (lane, floor0, floor1, floor2)"
    )
    .bindparams(
        bindparam("lane", type_=ARRAY(Uuid())),
        *(bindparam(f"floor{priority}", type_=ARRAY(BigInteger)) for priority in range(3)),
    )
    .columns(lane=Uuid())
)

# Where nothing waits at a priority: any later job has a wake row, which lowers the floor again.
_FLOORS_AFTER = tuple((name, f"coalesce(v.at{at}, CAST(:lanes_now AS bigint))") for at, name in enumerate(FLOORS))
_FIRST = "least(v.at0, v.at1, v.at2)"
_NEXT_AT = f"CASE WHEN {_FIRST} IS NOT NULL AND v.next_at IS NOT NULL THEN greatest({_FIRST}, v.next_at) END"
_COMPUTED = Computed(
    _firsts("v.id", (f"v.{name}" for name in FLOORS)),
    (*_FLOORS_AFTER, ("next_at", _NEXT_AT)),
    frozenset(("id", "next_at", *FLOORS)),
    (bindparam("lanes_now", type_=BigInteger),),
    (schema.lane.c.next_at, schema.lane.c.turn),
)
