"""The whole ledger at a glance: jobs by state, lanes, holds and their rules, workers, and the leader.

Counts of waiting jobs use the partial indexes and stop at `JOBS_MOST`; only `jobs_by_lane` reads every job, and is for
small ledgers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, case, func, select, text

from sendq.clock import SECOND, Micros, moment, seconds
from sendq.ledger.db import schema
from sendq.ledger.deliveries import backlog
from sendq.ledger.dispatching import broker, lineage
from sendq.ledger.dispatching.lineage import DISPATCHER, Incomplete, Standing
from sendq.ledger.reading import gauges
from sendq.ledger.reading.budgets import budgets
from sendq.ledger.reading.held import held
from sendq.ledger.reading.holds import lane_holds, tag_holds, wide_holds
from sendq.ledger.reading.paging import literal
from sendq.ledger.reading.rows import as_one
from sendq.ledger.reading.unapproved import approvals
from sendq.rules.rule_ids import OUTSIDE_WINDOW
from sendq.rules.states import WAITING, State
from sendq.rules.waiting_job import HELD
from sendq.rules.why import SHUT
from sendq.views import BrokerView, LaneCounts, Shut, Status, WorkerView
from sendq.views.status import CALLS_S, JOBS_MOST


def status(connection: Connection, *, now: Micros, holds: int = 20) -> Status:
    """The ledger at a glance, with at most ``holds`` grants that are held or closed, the latest first."""
    standing = lineage.read(connection)
    turn_wait_s, oldest_s = gauges.waits(connection, now=now)
    outside_window, next_opening = _outside_window(connection, now=now)
    return Status(
        at=moment(now),
        shut=shut(standing),
        jobs=job_counts(connection),
        lanes=lane_counts(connection, now=now),
        holds=(
            *wide_holds(connection, now=now),
            *tag_holds(connection, now=now),
            *lane_holds(connection, now=now, limit=holds),
        ),
        workers=tuple(workers(connection, now=now)),
        turn_wait_s=turn_wait_s,
        oldest_s=oldest_s,
        calls=gauges.calls_since(connection, now - seconds(CALLS_S)),
        deliveries=backlog(connection, now=now),
        broker=broker_view(connection),
        clock_behind_s=max(0, standing.highest_at - now) / SECOND,
        held=held(connection, now=now),
        approvals=approvals(connection),
        outside_window=outside_window,
        next_opening=None if next_opening is None else moment(next_opening),
        budgets=budgets(connection, now=now),
    )


def _outside_window(connection: Connection, *, now: Micros) -> tuple[int, Micros | None]:
    """How many jobs wait for a window, and when the first of them may begin."""
    table = schema.job.c
    waits = (table.state == literal(State.QUEUED), table.rule == text(f"'{OUTSIDE_WINDOW}'"), table.next_at > now)
    some = select(table.next_at).where(*waits, table.next_at < HELD).order_by(table.next_at).limit(JOBS_MOST).subquery()
    number, first = connection.execute(select(func.count(), func.min(some.c.next_at)).select_from(some)).one()
    return int(number), first


def broker_view(connection: Connection) -> BrokerView:
    """Since when the broker does not work, as far as the ledger knows."""
    found = broker.read(connection)
    times = (found.unpublished_since, found.unclaimed_since, found.failing_since)
    return BrokerView(*(None if at is None else moment(at) for at in times))


def shut(found: Standing) -> Shut | None:
    """Whether the ledger has lost part of its history: then nothing is sent until `sendq recover` has been run."""
    if found.shut_at is None:
        return None
    because = found.shut_because or Incomplete.LOST
    return Shut(moment(found.shut_at), because, moment(found.known_until or 0), SHUT[because])


def job_counts(connection: Connection) -> dict[State, int]:
    """How many jobs are in each state."""
    table = schema.job.c
    counts = dict.fromkeys(State, 0)
    for state in WAITING:
        some = select(table.id).where(table.state == literal(state)).limit(JOBS_MOST).subquery()
        counts[state] = int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    ended = [state for state in State if state not in WAITING]
    sums = select(table.state, func.count().label("number")).where(table.state.in_(ended)).group_by(table.state)
    for row in connection.execute(sums):
        counts[State(row.state)] = int(row.number)
    return counts


def lane_counts(connection: Connection, *, now: Micros) -> LaneCounts:
    """How many lanes are in each state; each is counted once, as the first of closed, held, served that applies."""
    table = schema.lane.c
    closed, held, served = table.closed_at.is_not(None), table.held_until > now, table.turn.is_not(None)
    state = case((closed, "closed"), (held, "held"), (served, "served"), (table.next_at.is_not(None), "waiting"))
    found = connection.execute(select(state.label("state"), func.count().label("number")).group_by(state))
    counts = {row.state: int(row.number) for row in found}
    return LaneCounts(
        total=sum(counts.values()),
        served=counts.get("served", 0),
        waiting=counts.get("waiting", 0),
        held=counts.get("held", 0),
        closed=counts.get("closed", 0),
    )


def workers(connection: Connection, *, now: Micros) -> list[WorkerView]:
    """Every registered worker, the oldest first, and which of them is the leader."""
    table, leader = schema.worker, schema.leader
    leads = connection.execute(
        select(leader.c.holder).where(leader.c.name == DISPATCHER, leader.c.expires_at > now)
    ).scalar()
    rows = connection.execute(select(table).order_by(table.c.started_at, table.c.id))
    return [as_one(WorkerView, row, leads=row.id == leads, silent_s=max(0, now - row.beat_at) / SECOND) for row in rows]


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
