"""The ledger from above: how many jobs in which state, which lanes are left alone and why, who works, who leads.

What a person who looks after it asks for. Nothing here writes. Counts of jobs that wait go through the partial indexes
and stop at `COUNT_MOST`; `jobs_by_lane` alone reads every job, and is for small ledgers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, case, func, or_, select

from sendq.clock import Micros, moment, seconds
from sendq.ledger.db import schema
from sendq.ledger.deliveries import Backlog, backlog
from sendq.ledger.dispatching import lineage
from sendq.ledger.dispatching.lineage import DISPATCHER
from sendq.ledger.reading import gauges
from sendq.ledger.reading.listing import literal
from sendq.rules.states import WAITING, State
from sendq.rules.why import SHUT
from sendq.views import plain

# Counting one state stops here: with millions of waiting jobs "at least 100,000" is answer enough, in milliseconds.
COUNT_MOST = 100_000

# Rates are those of the last minute.
RATE_S = 60


@dataclass(frozen=True, slots=True)
class Lanes:
    """Lanes by state. ``served``: in a turn; ``waiting``: they want one; the rest of ``total`` has nothing to do."""

    total: int
    served: int
    waiting: int
    held: int
    closed: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A scope that is left alone, ``until`` a time, or (None) until the grant is authorised anew.

    ``grant_id`` is None when the hold is on a provider, ``provider`` as well when it is on the whole application.
    """

    application: str
    provider: str | None
    grant_id: str | None
    since: datetime | None
    until: datetime | None
    rule: str | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process as it registered itself; ``capacity`` is in calls at once."""

    id: str
    name: str
    pid: int
    version: str
    started_at: datetime
    beat_at: datetime
    capacity: int
    stopping: bool
    leads: bool


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing is dealt out ``since`` then: what happened after ``known_until``, the ledger does not know."""

    since: datetime
    known_until: datetime
    says: str


@dataclass(frozen=True, slots=True)
class Overview:
    """``jobs`` has every state; a count of `COUNT_MOST` for one that is not final means "at least".

    ``turn_wait_s`` and ``oldest_s`` (by priority) say how long what nothing holds has waited (`levels.Levels`);
    ``calls``: those of the last `RATE_S`, by what they led to; ``deliveries``: the outcomes that are to be told.
    """

    at: datetime
    shut: Shut | None
    jobs: dict[State, int]
    lanes: Lanes
    holds: tuple[Hold, ...]
    workers: tuple[Worker, ...]
    turn_wait_s: float
    oldest_s: dict[str, float]
    calls: dict[str, int]
    deliveries: Backlog

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return _deeply_plain(asdict(self))


def overview(connection: Connection, *, now: Micros, holds: int = 20) -> Overview:
    """Everything at one glance, with at most ``holds`` holds of lanes, the latest first."""
    turn_wait_s, oldest_s = gauges.waits(connection, now=now)
    return Overview(
        at=moment(now),
        shut=shut(connection),
        jobs=job_counts(connection),
        lanes=lane_counts(connection, now=now),
        holds=tuple(held(connection, now=now, limit=holds)),
        workers=tuple(workers(connection, now=now)),
        turn_wait_s=turn_wait_s,
        oldest_s=oldest_s,
        calls=gauges.calls_since(connection, now - seconds(RATE_S)),
        deliveries=backlog(connection, now=now),
    )


def shut(connection: Connection) -> Shut | None:
    """Whether the ledger has lost a part of its history, and nothing goes before that is put right."""
    found = lineage.read(connection)
    if found.shut_at is None:
        return None
    return Shut(moment(found.shut_at), moment(found.known_until or 0), SHUT)


def job_counts(connection: Connection) -> dict[State, int]:
    """How many jobs are in each state."""
    table = schema.job.c
    counts = dict.fromkeys(State, 0)
    for state in WAITING:
        some = select(table.id).where(table.state == literal(state)).limit(COUNT_MOST).subquery()
        counts[state] = int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    ended = [state for state in State if state not in WAITING]
    sums = select(table.state, func.count().label("number")).where(table.state.in_(ended)).group_by(table.state)
    for row in connection.execute(sums):
        counts[State(row.state)] = int(row.number)
    return counts


def lane_counts(connection: Connection, *, now: Micros) -> Lanes:
    """How many lanes are in which state; each is counted once, as the first that fits of closed, held, served."""
    table = schema.lane.c
    closed, held, served = table.closed_at.is_not(None), table.held_until > now, table.turn.is_not(None)
    state = case((closed, "closed"), (held, "held"), (served, "served"), (table.next_at.is_not(None), "waiting"))
    found = connection.execute(select(state.label("state"), func.count().label("number")).group_by(state))
    counts = {row.state: int(row.number) for row in found}
    return Lanes(
        total=sum(counts.values()),
        served=counts.get("served", 0),
        waiting=counts.get("waiting", 0),
        held=counts.get("held", 0),
        closed=counts.get("closed", 0),
    )


def held(connection: Connection, *, now: Micros, limit: int) -> list[Hold]:
    """What is left alone now: applications and providers, all of them, then at most ``limit`` lanes."""
    pair, lane = schema.pair, schema.lane
    pairs = connection.execute(
        select(pair).where(pair.c.held_until > now).order_by(pair.c.application, pair.c.provider)
    )
    wide = [_pair_hold(row) for row in pairs]
    since = func.coalesce(lane.c.closed_at, lane.c.held_since)
    rows = connection.execute(
        select(lane)
        .where(or_(lane.c.closed_at.is_not(None), lane.c.held_until > now))
        .order_by(since.desc(), lane.c.id)
        .limit(limit)
    )
    return wide + [_lane_hold(row) for row in rows]


def workers(connection: Connection, *, now: Micros) -> list[Worker]:
    """Every worker that is registered, the oldest first, and which of them leads."""
    table, leader = schema.worker, schema.leader
    leads = connection.execute(
        select(leader.c.holder).where(leader.c.name == DISPATCHER, leader.c.expires_at > now)
    ).scalar()
    rows = connection.execute(select(table).order_by(table.c.started_at, table.c.id))
    return [
        Worker(
            id=str(row.id),
            name=row.name,
            pid=row.pid,
            version=row.version,
            started_at=moment(row.started_at),
            beat_at=moment(row.beat_at),
            capacity=row.capacity,
            stopping=row.stopping,
            leads=row.id == leads,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class LaneJobs:
    """A lane and its jobs by state."""

    id: UUID
    grant_id: str
    provider: str
    closed: bool
    held_until: datetime | None
    jobs: dict[State, int]


def jobs_by_lane(connection: Connection, *, now: Micros) -> list[LaneJobs]:
    """Every lane with all its jobs counted by state, in the order of grants. Reads every job."""
    job, lane = schema.job, schema.lane
    counts: dict[UUID, dict[State, int]] = {}
    sums = select(job.c.lane_id, job.c.state, func.count().label("number")).group_by(job.c.lane_id, job.c.state)
    for row in connection.execute(sums):
        counts.setdefault(row.lane_id, {})[State(row.state)] = int(row.number)
    return [
        LaneJobs(
            id=row.id,
            grant_id=row.grant_id,
            provider=row.provider,
            closed=row.closed_at is not None,
            held_until=moment(row.held_until) if row.held_until is not None and row.held_until > now else None,
            jobs=counts.get(row.id, {}),
        )
        for row in connection.execute(select(lane).order_by(lane.c.grant_id))
    ]


def _pair_hold(row: Row[Any]) -> Hold:
    return Hold(
        application=row.application,
        provider=None if row.provider == "*" else row.provider,
        grant_id=None,
        since=_moment(row.held_since),
        until=moment(row.held_until),
        rule=row.held_rule,
        by=row.held_by,
    )


def _lane_hold(row: Row[Any]) -> Hold:
    closed = row.closed_at is not None
    return Hold(
        application=row.application,
        provider=row.provider,
        grant_id=row.grant_id,
        since=_moment(row.closed_at if closed else row.held_since),
        until=None if closed else moment(row.held_until),
        rule=row.closed_rule if closed else row.held_rule,
        by="policy" if closed else row.held_by,
    )


def _moment(at: Micros | None) -> datetime | None:
    return None if at is None else moment(at)


def _deeply_plain(values: dict[str, Any]) -> dict[str, Any]:
    """`plain`, for the rows of nested lists too."""
    return {key: [plain(item) for item in value] if _is_rows(value) else value for key, value in plain(values).items()}


def _is_rows(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(row, dict) for row in value)
