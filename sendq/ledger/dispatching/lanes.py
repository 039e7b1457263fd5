"""Lanes: their state, and every change of it.

Whoever changes a lane locks its row in one statement and works out its next time in a later one. A single statement
that did both would look at the jobs as they were before it waited for the lock, and miss one that was committed in
between. Several lanes are locked in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.lanes import Lane, Wake
from sendq.facts.turns import Turn
from sendq.ids import number
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new, one_of, update_rows
from sendq.rules.pace import PROVEN_FOR, RAMP_MOST, next_turn_at
from sendq.rules.paces import Paces

Floors = tuple[Micros, Micros, Micros]  # by priority: high, normal, low
NEVER: Micros = 2**62

_FLOORS = ("high_floor", "normal_floor", "low_floor")
_WAKES = ("high_at", "normal_at", "low_at")


def floors_of(row: Lane) -> Floors:
    """Where the scans of a lane begin."""
    return row.high_floor, row.normal_floor, row.low_floor


def lower(floors: Floors, priority: int, at: Micros) -> Floors:
    """The floors once a job of ``priority`` waits again from ``at``: no waiting job may stand before its floor."""
    changed = list(floors)
    changed[priority] = min(changed[priority], at)
    return (changed[0], changed[1], changed[2])


def lower_in(changes: dict[UUID, dict[str, Any]], lane: Lane, priority: int, at: Micros) -> None:
    """The same in ``changes`` (see `settle`), on top of what stands there already."""
    change = changes.setdefault(lane.id, {})
    floors = lower(floors_of(lane), priority, at)
    for name, floor in zip(_FLOORS, floors, strict=True):
        change[name] = min(floor, change.get(name, floor))


def lock(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Lane]:
    """Lock lanes, in the order of their ids, and read them as they are now."""
    wanted = sorted(set(ids), key=number)
    if not wanted:
        return {}
    table = schema.lane
    these = select(table).where(one_of(connection, table.c.id, wanted))
    rows = connection.execute(these.order_by(table.c.id).with_for_update())
    return {row[0]: Lane._make(row) for row in rows}


# --- new jobs ---------------------------------------------------------------------------------------------------------


# Asked first, for an idle dispatcher does little else: half of what it costs to delete nothing.
_ANY_WAKE = text("SELECT 1 FROM sendq_wake WHERE id > :above LIMIT 1")


def take_wakes(connection: Connection, *, limit: int, above: int = 0) -> Sequence[Wake]:
    """Delete up to ``limit`` wake rows with ids above one and give them.

    Never "those above the last one seen": ids are handed out before they are committed, so lower ones appear later.
    What ``above`` may be is for `sendq.rules.floors` to say.
    """
    if connection.execute(_ANY_WAKE, {"above": above}).first() is None:
        return []
    table = schema.wake
    live = select(table.c.id).where(table.c.id > above)
    # With a name of its own it is asked once. A planner may ask a subquery for each row, and then it locks more.
    some = live.order_by(table.c.id).limit(limit).with_for_update(skip_locked=True).cte("some")
    taken = connection.execute(delete(table).where(table.c.id.in_(select(some.c.id))).returning(*table.c))
    return [Wake._make(row) for row in taken]


def wake(connection: Connection, wakes: Sequence[Wake], *, now: Micros, paces: Paces) -> None:
    """Let the lanes know of new jobs; lanes and pairs that are seen for the first time are made."""
    news = _merge(wakes)
    rows = lock(connection, news)
    if len(rows) < len(news):
        _make(connection, {lane_id: new for lane_id, new in news.items() if lane_id not in rows}, now=now, paces=paces)
        rows = lock(connection, news)
    changes = []
    in_order = sorted(rows, key=lambda lane_id: news[lane_id].first)
    for place, lane_id in enumerate(in_order):
        row, new = rows[lane_id], news[lane_id]
        floors = floors_of(row)
        for priority, at in enumerate(new.earliest):
            if at is not None:
                floors = lower(floors, priority, at)
        # Hardly earlier than now, whatever the jobs say, and in their order: scans begin at a time near now.
        first = max(now - (len(in_order) - place), new.first)
        wanted = next_turn_at(first, ready_at=row.ready_at, held_until=row.held_until, closed=row.closed_at is not None)
        if wanted is not None and row.next_at is not None:
            wanted = min(wanted, row.next_at)
        changes.append({"id": lane_id, "next_at": wanted, **dict(zip(_FLOORS, floors, strict=True))})
    update_rows(connection, schema.lane, changes)
    known = {row.id: new.provider for row in rows.values() if (new := news[row.id]).provider and _is_unknown(row)}
    name_providers(connection, rows, known, paces=paces)


@dataclass(slots=True)
class _News:
    application: str
    grant_id: str
    provider: str | None
    earliest: list[Micros | None]

    @property
    def first(self) -> Micros:
        """When the first of the new jobs is due."""
        return min(at for at in self.earliest if at is not None)


def _merge(wakes: Sequence[Wake]) -> dict[UUID, _News]:
    news: dict[UUID, _News] = {}
    for row in wakes:
        new = news.setdefault(row.lane_id, _News(row.application, row.grant_id, None, [None, None, None]))
        new.provider = row.provider or new.provider
        for priority, name in enumerate(_WAKES):
            at = getattr(row, name)
            known = new.earliest[priority]
            if at is not None and (known is None or at < known):
                new.earliest[priority] = at
    return news


def _make(connection: Connection, news: Mapping[UUID, _News], *, now: Micros, paces: Paces) -> None:
    lanes: list[dict[str, Any]] = []
    for lane_id, new in sorted(news.items()):
        provider = paces.provider(new.application, new.provider)
        row = {"id": lane_id, "application": new.application, "grant_id": new.grant_id, "provider": provider}
        lanes.append(row | {"created_at": now, "ramp": 1} | paced(paces, new.application, provider, new.grant_id))
    insert_new(connection, schema.lane, lanes, returning="id")
    _make_pairs(connection, {(lane["application"], lane["provider"]) for lane in lanes})


def _make_pairs(connection: Connection, names: Iterable[tuple[str, str]]) -> None:
    pairs = [{"application": application, "provider": provider} for application, provider in sorted(names)]
    insert_new(connection, schema.pair, pairs, returning="provider")


# --- whose they are, and how fast -------------------------------------------------------------------------------------


def paced(paces: Paces, application: str, provider: str, grant_id: str) -> dict[str, Any]:
    """What a lane keeps of its pace."""
    return {
        "width": paces.of(application, provider, grant_id).width,
        "pace": paces.own(application, provider, grant_id),
    }


def _is_unknown(row: Lane) -> bool:
    return row.provider == "unknown"


def name_providers(
    connection: Connection, rows: Mapping[UUID, Lane], providers: Mapping[UUID, str], *, paces: Paces
) -> None:
    """Somebody knows now who is behind these (locked) lanes: they keep that provider's pace from now on."""
    changes = []
    for lane_id, provider in sorted(providers.items()):
        row = rows[lane_id]
        pace = paced(paces, row.application, provider, row.grant_id)
        ramp = min(row.ramp, pace["width"])
        changes.append({"id": lane_id, "provider": provider, "ramp": ramp, "used": None, "stretch": 0} | pace)
    update_rows(connection, schema.lane, changes)
    _make_pairs(connection, {(rows[lane_id].application, provider) for lane_id, provider in providers.items()})


def keep_paces(connection: Connection, paces: Paces, *, after: UUID, limit: int) -> tuple[UUID | None, int]:
    """Let the next ``limit`` lanes after one id keep the pace that the settings give them now.

    Gives where to go on (None: that was the last) and how many of these kept another pace.
    """
    table = schema.lane.c
    wanted = select(table.id, table.application, table.provider, table.grant_id, table.pace)
    rows = connection.execute(wanted.where(table.id > after).order_by(table.id).limit(limit)).all()
    others = {row.id for row in rows if row.pace != paces.own(row.application, row.provider, row.grant_id)}
    changes = [
        {"id": row.id, "ramp": 1, "used": None} | paced(paces, row.application, row.provider, row.grant_id)
        for row in lock(connection, others).values()
    ]
    update_rows(connection, schema.lane, changes)
    return (rows[-1].id if len(rows) == limit else None), len(changes)


# --- the next turn ----------------------------------------------------------------------------------------------------


def settle(
    connection: Connection, rows: Mapping[UUID, Lane], changes: Mapping[UUID, Mapping[str, Any]], *, now: Micros
) -> Micros:
    """Write ``changes`` to locked lanes, with the time at which each next wants a turn; gives the earliest of these.

    ``changes`` maps a lane's id to new values of its columns; floors that were lowered are among them. To be called
    after every job of these lanes was written, in the same transaction.
    """
    if not changes:
        return NEVER
    merged = {lane_id: _changed(rows[lane_id], changes[lane_id]) for lane_id in sorted(changes, key=number)}
    first = first_waiting(connection, merged)
    settled: dict[tuple[str, ...], list[dict[str, Any]]] = {}  # by the columns that change
    earliest = NEVER
    for lane_id, values in merged.items():
        waiting = first[lane_id]
        # Nothing waits at this priority: whatever comes later brings a wake row, which lowers the floor again.
        floors = {name: now if at is None else at for name, at in zip(_FLOORS, waiting, strict=True)}
        due = [at for at in waiting if at is not None]
        # A lane that is due already goes behind those that have waited longer.
        wanted = next_turn_at(
            max(min(due), now) if due else None,
            ready_at=values["ready_at"],
            held_until=values["held_until"],
            closed=values["closed_at"] is not None,
        )
        if wanted is not None and values["turn"] is None:
            earliest = min(earliest, wanted)
        row = {"id": lane_id, **changes[lane_id], **floors, "next_at": wanted}
        settled.setdefault(tuple(sorted(row)), []).append(row)
    for alike in settled.values():
        update_rows(connection, schema.lane, alike)
    return earliest


def _changed(row: Lane, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A lane with its changes."""
    return {**row._asdict(), **changes}


CLOSED_TURN: Mapping[str, Any] = {"turn": None, "turn_at": None, "turn_worker": None, "turn_slots": 0}


def first_waiting(
    connection: Connection, lanes: Mapping[UUID, Mapping[str, Any]]
) -> dict[UUID, tuple[Micros | None, Micros | None, Micros | None]]:
    """When the first waiting job of each lane is due, by priority."""
    columns = {"lane": list(lanes)} | {
        f"floor{priority}": [values[name] for values in lanes.values()] for priority, name in enumerate(_FLOORS)
    }
    if connection.dialect.name == "postgresql":
        found = connection.execute(_first_waiting_of("postgresql"), columns)
        return {row.lane: (row.at0, row.at1, row.at2) for row in found}
    statement = _first_waiting_of("sqlite")
    result = {}
    for position, lane_id in enumerate(lanes):
        row = connection.execute(statement, {name: values[position] for name, values in columns.items()}).one()
        result[lane_id] = (row.at0, row.at1, row.at2)
    return result


@lru_cache
def _first_waiting_of(dialect: str) -> Executable:
    prefix = "v." if dialect == "postgresql" else ":"
    firsts = ", ".join(
        f"(SELECT next_at FROM sendq_job WHERE lane_id = {prefix}lane AND state = 'queued' AND priority = {priority}"  # noqa: S608
        f" AND next_at >= {prefix}floor{priority} ORDER BY next_at LIMIT 1) AS at{priority}"
        for priority in range(3)
    )
    if dialect == "sqlite":
        return text(f"SELECT {firsts}").bindparams(bindparam("lane", type_=Uuid()))
    arrays = ", ".join(["CAST(:lane AS uuid[])"] + [f"CAST(:floor{priority} AS bigint[])" for priority in range(3)])
    statement = text(f"SELECT v.lane, {firsts} FROM unnest({arrays}) AS v (lane, floor0, floor1, floor2)")  # noqa: S608
    floors = (bindparam(f"floor{priority}", type_=ARRAY(BigInteger)) for priority in range(3))
    return statement.bindparams(bindparam("lane", type_=ARRAY(Uuid())), *floors).columns(lane=Uuid())


# --- dispatch ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairView:
    """One (application, provider): when it is open again, and when the first of its lanes wants a turn."""

    application: str
    provider: str
    held_until: Micros
    next_at: Micros | None
    ramp: int | None = None  # calls at once in all, while it is not known to work
    proven_at: Micros | None = None

    def allows(self, *, now: Micros) -> int | None:
        """Calls at once in all that are allowed now; None: no limit."""
        if self.ramp is not None:
            return self.ramp
        return None if self.proven_at is not None and now - self.proven_at < PROVEN_FOR else 1

    @property
    def wants_at(self) -> Micros:
        """When the dispatcher should look at it again."""
        return NEVER if self.next_at is None else max(self.next_at, self.held_until)


def pairs(connection: Connection, *, floors: Mapping[tuple[str, str], Micros] | None = None) -> list[PairView]:
    """Every pair with its hold (its own, or its application's) and the first time that a lane of it is due.

    ``floors``: where the search for that begins, by pair.
    """
    places = {name: f"floor{place}" for place, name in enumerate(sorted(floors or {}))}
    values = {place: (floors or {})[name] for name, place in places.items()}
    found = connection.execute(_pairs_from(tuple(places.items())), values).all()
    whole = {row.application: row.held_until or 0 for row in found if row.provider == "*"}
    return [
        PairView(
            row.application,
            row.provider,
            max(row.held_until or 0, whole.get(row.application, 0)),
            row.next_at,
            row.ramp,
            row.proven_at,
        )
        for row in found
        if row.provider != "*"
    ]


# An idle dispatcher asks little else, and building the statement is half of what that costs.
@lru_cache
def _pairs_from(floors: tuple[tuple[tuple[str, str], str], ...]) -> Select[Any]:
    """The pairs' statement, with the parameter for each pair's floor."""
    table, lanes = schema.pair, schema.lane.c
    floor = case(
        *(
            (and_(table.c.application == application, table.c.provider == provider), bindparam(at, type_=BigInteger))
            for (application, provider), at in floors
        ),
        (true(), 0),
        else_=0,
    )
    first = (
        select(lanes.next_at)
        .where(
            lanes.application == table.c.application,
            lanes.provider == table.c.provider,
            lanes.turn.is_(None),
            lanes.next_at >= floor,
        )
        .order_by(lanes.next_at)
        .limit(1)
        .scalar_subquery()
    )
    # In the order in which everybody locks them.
    return select(table, first.label("next_at")).order_by(table.c.application, table.c.provider)


def lock_pairs(connection: Connection, applications: Iterable[str]) -> None:
    """Lock all pairs of these applications, in the order of their names."""
    table = schema.pair.c
    wanted = select(table.provider).where(table.application.in_(sorted(set(applications))))
    connection.execute(wanted.order_by(table.application, table.provider).with_for_update()).all()


def unprove(connection: Connection, pair: PairView) -> None:
    """A pair whose last success is too old begins anew with one call at a time."""
    table = schema.pair
    this = update(table).where(table.c.application == pair.application, table.c.provider == pair.provider)
    connection.execute(this.where(table.c.ramp.is_(None)).values(ramp=1))


def prove(connection: Connection, application: str, provider: str, *, begun_at: Micros, now: Micros) -> int | None:
    """A call of this pair, begun then, succeeded; gives its ramp, None once there is none any more.

    A success that was on the wire when a hold fell proves nothing about what comes after it.
    """
    table = schema.pair
    doubled = case((table.c.ramp * 2 > RAMP_MOST, None), else_=table.c.ramp * 2)
    this = update(table).where(table.c.application == application, table.c.provider == provider)
    above = table.alias()
    held_above = exists().where(
        above.c.application == application, above.c.provider == "*", above.c.held_since > begun_at
    )
    since = this.where(table.c.held_since.is_(None) | (table.c.held_since <= begun_at), ~held_above)
    ramp = connection.execute(since.values(proven_at=now, ramp=doubled, streak=0).returning(table.c.ramp)).scalar()
    whole = update(table).where(table.c.application == application, table.c.provider == "*", table.c.streak > 0)
    connection.execute(whole.where(table.c.held_since <= begun_at).values(streak=0))
    return ramp


def due(
    connection: Connection, pair: PairView, *, now: Micros, limit: int, floor: Micros = 0
) -> list[tuple[UUID, int]]:
    """Due lanes of one pair, those first that have waited longest, with the calls each may make at once; locked."""
    table = schema.lane.c
    rows = connection.execute(
        select(table.id, table.ramp)
        .where(
            table.application == pair.application,
            table.provider == pair.provider,
            table.turn.is_(None),
            table.next_at >= floor,
            table.next_at <= now,
        )
        .order_by(table.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [(row.id, row.ramp) for row in rows]


def offer(connection: Connection, wanted: Sequence[tuple[UUID, int]], *, now: Micros) -> list[Turn]:
    """Open a turn for each of these lanes that has none, with so many calls at once: compare and set."""
    table = schema.lane
    by_slots: dict[int, list[UUID]] = {}
    for lane_id, slots in wanted:
        by_slots.setdefault(slots, []).append(lane_id)
    turns: dict[UUID, Turn] = {}
    for slots, ids in by_slots.items():
        rows = connection.execute(
            update(table)
            .where(one_of(connection, table.c.id, ids), table.c.turn.is_(None))
            .values(turn="offered", fence=table.c.fence + 1, turn_at=now, turn_worker=None, turn_slots=slots)
            .returning(table.c.id, table.c.fence)
        )
        turns |= {row.id: Turn(row.id, row.fence, slots) for row in rows}
    return [turns[lane_id] for lane_id, _ in wanted if lane_id in turns]


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
    # A range with both ends: of one that is open above, a planner without statistics expects a third of all lanes.
    " WHERE turn IS NOT NULL AND turn_at >= :floor AND turn_at < :never GROUP BY application, provider) AS u ON true"
)


def slots(connection: Connection, *, old_before: Micros, floor: Micros = 0) -> tuple[int, dict[tuple[str, str], Used]]:
    """Calls at once that all workers can make, and what turns opened since ``floor`` use of that, by
    (application, provider); those opened before ``old_before`` are old.
    """
    values = {"old_before": old_before, "floor": floor, "never": NEVER}
    rows = connection.execute(_SLOTS, values).all()
    used = {
        (row.application, row.provider): Used(int(row.young), int(row.slots) - int(row.young), row.first_at)
        for row in rows
        if row.application is not None
    }
    return int(rows[0].capacity), used
