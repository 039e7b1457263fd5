"""The numbers for graphs and alerts: queried every few seconds, on a ledger of any size.

Every query is bounded. Jobs are counted through partial indexes up to `COUNT_MOST`; above that, PostgreSQL's own
estimate of the index is used (as of its last vacuum or analyze), and SQLite reports `COUNT_MOST`. Jobs that were sent,
cancelled or have expired are not counted here: workers count those as they end. All lanes are read once: there are as
many as grants, not as jobs. The oldest job is searched only where it can be: in the lanes that have waited longest for
a turn, and in those that are in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, case, func, literal_column, or_, select, text

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.ids import first_id
from sendq.ledger.db import schema
from sendq.ledger.deliveries import backlog
from sendq.ledger.dispatching.lanes import first_waiting
from sendq.ledger.dispatching.pairs import read_pairs
from sendq.ledger.reading import unapproved
from sendq.ledger.reading.budgets import budgets
from sendq.ledger.reading.held import held
from sendq.rules.states import State
from sendq.views import Backlog, BudgetView, HeldGroup
from sendq.views.overview import COUNT_MOST

# Long enough before the end that a person can act, even at night.
EXPIRES_SOON: Micros = 6 * 3_600 * SECOND

# Jobs that expired stay in the number for this long: longer than any alert waits.
EXPIRED_LATELY: Micros = 3_600 * SECOND

# Lanes searched for the oldest job: this many that have waited longest, and this many that are in a turn.
SEARCHED = 200

# The time limit of each query on PostgreSQL.
LIMIT_MS = 5_000

PRIORITIES = ("high", "normal", "low")
LANE_STATES = ("closed", "held", "served", "waiting", "idle")

_INDEX_OF = {
    State.QUEUED: "sendq_job_waiting_idx",
    State.SENDING: "sendq_job_begun_idx",
    State.IN_DOUBT: "sendq_job_doubt_idx",
}


# Entries that are counted by application and reason: some ten milliseconds.
SUPPRESSED_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Levels:
    """The numbers at one moment. Ages are in seconds; 0 where nothing waits.

    jobs            queued and sending
    in_doubt, dead  jobs in doubt and dead letters, by the rule that decided
    lanes           by (state, rule); the state is one of `LANE_STATES`, the rule the one that held or closed it
    holds           of applications and providers, by (scope, rule)
    turns           open ones, by state (offered, claimed)
    turn_wait_s     how long the lane that has waited longest has been due for a turn
    oldest_s        by priority, how long the oldest eligible job has waited: one whose lane is not held, closed or
                    delayed by its pace
    deliveries      outcomes that are still to be delivered
    held            what is held or closed, by application, provider and rule, with the jobs that wait behind it
    expiring        jobs that expire within `EXPIRES_SOON`, by (application, provider, rule that holds or closed the
                    lane or its provider or application, else "")
    unapproved      jobs that wait for approval, and those of them that are given up within six hours, by application
    expired         jobs that expired within `EXPIRED_LATELY`, by (application, provider)
    notices         notifications about mail since the ledger exists, by (application, provider, type, result): their
                    number, and the sum of the seconds from a mail's acceptance to the report
    suppressed      recipients on suppression lists, by (application, reason); of `SUPPRESSED_MOST` entries at most
    budgets         those of which some is used in the current window
    workers         registered ones; capacity: calls that they make at once; silence_s: the longest time since a
                    heartbeat, by the clocks of the workers
    """

    jobs: Mapping[str, int]
    in_doubt: Mapping[str, int]
    dead: Mapping[str, int]
    lanes: Mapping[tuple[str, str], int]
    holds: Mapping[tuple[str, str], int]
    turns: Mapping[str, int]
    turn_wait_s: float
    oldest_s: Mapping[str, float]
    deliveries: Backlog
    workers: int
    capacity: int
    silence_s: float
    held: Sequence[HeldGroup] = ()
    expiring: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    expired: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unapproved: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notices: Mapping[tuple[str, str, str, str], tuple[int, float]] = field(default_factory=dict)
    suppressed: Mapping[tuple[str, str], int] = field(default_factory=dict)
    budgets: Sequence[BudgetView] = ()


def levels(connection: Connection, *, now: Micros) -> Levels:
    """Run all queries, in one transaction."""
    limit_time(connection)
    turn_wait_s, oldest_s = waits(connection, now=now)
    workers = connection.execute(
        select(func.count(), func.coalesce(func.sum(schema.worker.c.capacity), 0), func.min(schema.worker.c.beat_at))
    ).one()
    return Levels(
        jobs={state.value: count_waiting(connection, state) for state in (State.QUEUED, State.SENDING)},
        in_doubt=_by_rule(connection, State.IN_DOUBT),
        dead=_by_rule(connection, State.DEAD),
        lanes=lanes_by_state(connection, now=now),
        holds=_wide_holds(connection, now=now),
        turns=_turns(connection),
        turn_wait_s=turn_wait_s,
        oldest_s=oldest_s,
        deliveries=backlog(connection, now=now),
        workers=workers[0],
        capacity=int(workers[1]),
        silence_s=_age(workers[2], now),
        held=held(connection, now=now),
        expiring=_expiring(connection, now=now),
        expired=_expired(connection, now=now),
        unapproved=unapproved.by_application(connection, now=now),
        notices=_notices(connection),
        suppressed=_suppressed(connection),
        budgets=budgets(connection, now=now),
    )


def limit_time(connection: Connection) -> None:
    """Let each query of this transaction take at most `LIMIT_MS`, on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = {LIMIT_MS}"))


def waits(connection: Connection, *, now: Micros) -> tuple[float, dict[str, float]]:
    """``turn_wait_s`` and ``oldest_s`` of `Levels`."""
    pairs = read_pairs(connection)
    held = {(pair.application, pair.provider) for pair in pairs if pair.held_until > now}
    due = [pair.next_at for pair in pairs if pair.next_at is not None and pair.wants_at <= now]
    return _age(min(due, default=None), now), _oldest(connection, held, now=now)


def calls_since(connection: Connection, at: Micros) -> dict[str, int]:
    """Calls whose outcome came after ``at``, by what they led to (``done``, or a route); up to ten times `COUNT_MOST`.

    Ids of attempts are in the order of time, so this reads only the end of their index.
    """
    table = schema.attempt.c
    some = select(table.route).where(table.id >= first_id(at)).limit(10 * COUNT_MOST).subquery()
    rows = connection.execute(select(some.c.route, func.count().label("number")).group_by(some.c.route))
    return {row.route or "done": int(row.number) for row in rows}


def count_waiting(connection: Connection, state: State) -> int:
    """How many jobs are in a state that is not final; more than `COUNT_MOST` is an estimate, or "at least"."""
    counted = count_most(connection, state)
    if counted < COUNT_MOST or connection.dialect.name != "postgresql":
        return counted
    estimate = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass(:index)")
    return max(counted, int(connection.execute(estimate, {"index": _INDEX_OF[state]}).scalar() or 0))


def count_most(connection: Connection, state: State) -> int:
    """How many jobs are in a state that has a partial index; `COUNT_MOST` means at least as many."""
    some = select(schema.job.c.id).where(_is(state)).limit(COUNT_MOST).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def lanes_by_state(connection: Connection, *, now: Micros) -> Counter[tuple[str, str]]:
    """Lanes by (state, rule of the hold or of the closing, else ""); each is counted once, as the first that fits."""
    table = schema.lane.c
    closed, held, served = table.closed_at.is_not(None), table.held_until > now, table.turn.is_not(None)
    state = case(
        (closed, "closed"), (held, "held"), (served, "served"), (table.next_at.is_not(None), "waiting"), else_="idle"
    )
    rule = case((closed, table.closed_rule), (held, table.held_rule), else_="")
    rows = connection.execute(
        select(state.label("state"), func.coalesce(rule, "").label("rule"), func.count().label("number")).group_by(
            literal_column("1"), literal_column("2")
        )
    )
    return Counter({(row.state, row.rule): int(row.number) for row in rows})


def _by_rule(connection: Connection, state: State) -> dict[str, int]:
    some = select(schema.job.c.rule).where(_is(state)).limit(COUNT_MOST).subquery()
    rows = connection.execute(select(some.c.rule, func.count().label("number")).group_by(some.c.rule))
    return {row.rule or "": int(row.number) for row in rows}


def _wide_holds(connection: Connection, *, now: Micros) -> Counter[tuple[str, str]]:
    table = schema.pair.c
    rows = connection.execute(select(table.provider, table.held_rule).where(table.held_until > now))
    return Counter(("application" if row.provider == "*" else "provider", row.held_rule or "") for row in rows)


def _expiring(connection: Connection, *, now: Micros) -> dict[tuple[str, str, str], int]:
    """Up to `COUNT_MOST` jobs, those that expire first."""
    job, lane, pair = schema.job.c, schema.lane.c, schema.pair.c
    # Those that wait for approval are counted by themselves.
    soon = select(job.lane_id).where(_is(State.QUEUED), job.expires_at < now + EXPIRES_SOON, unapproved.not_waiting())
    some = soon.order_by(job.expires_at).limit(COUNT_MOST).subquery()
    over = (
        select(pair.held_rule)
        .where(
            pair.application == lane.application,
            pair.provider.in_([lane.provider, WHOLE_APPLICATION]),
            pair.held_until > now,
        )
        .order_by(pair.held_until.desc())
        .limit(1)
        .correlate(schema.lane)
        .scalar_subquery()
    )
    rule = case((lane.closed_at.is_not(None), lane.closed_rule), (lane.held_until > now, lane.held_rule), else_=over)
    rows = connection.execute(
        select(lane.application, lane.provider, func.coalesce(rule, "").label("rule"), func.count().label("number"))
        .join(some, some.c.lane_id == lane.id)
        .group_by(literal_column("1"), literal_column("2"), literal_column("3"))
    )
    return {(row.application, row.provider, row.rule): int(row.number) for row in rows}


def _expired(connection: Connection, *, now: Micros) -> dict[tuple[str, str], int]:
    """Up to `COUNT_MOST` jobs."""
    job, lane = schema.job.c, schema.lane.c
    lately = select(job.lane_id).where(_is(State.EXPIRED), job.finished_at >= now - EXPIRED_LATELY)
    some = lately.limit(COUNT_MOST).subquery()
    rows = connection.execute(
        select(lane.application, lane.provider, func.count().label("number"))
        .join(some, some.c.lane_id == lane.id)
        .group_by(lane.application, lane.provider)
    )
    return {(row.application, row.provider): int(row.number) for row in rows}


def _turns(connection: Connection) -> dict[str, int]:
    table = schema.lane.c
    rows = connection.execute(
        select(table.turn, func.count().label("number")).where(table.turn.is_not(None)).group_by(table.turn)
    )
    return {"offered": 0, "claimed": 0} | {row.turn: int(row.number) for row in rows}


def _notices(connection: Connection) -> dict[tuple[str, str, str, str], tuple[int, float]]:
    table = schema.notice_count.c
    name = (table.application, table.provider, table.kind, table.result)
    rows = connection.execute(select(*name, func.sum(table.number), func.sum(table.micros)).group_by(*name))
    return {(row[0], row[1], row[2], row[3]): (int(row[4]), int(row[5]) / SECOND) for row in rows}


def _suppressed(connection: Connection) -> dict[tuple[str, str], int]:
    table = schema.suppression.c
    some = select(table.application, table.reason).limit(SUPPRESSED_MOST).subquery()
    name = (some.c.application, some.c.reason)
    return {(row[0], row[1]): row[2] for row in connection.execute(select(*name, func.count()).group_by(*name))}


def _oldest(connection: Connection, held: Iterable[tuple[str, str]], *, now: Micros) -> dict[str, float]:
    table = schema.lane
    of_held = or_(
        literal_column("1 = 0"),
        *(and_(table.c.application == application, table.c.provider == provider) for application, provider in held),
    )
    free = select(table).where(~of_held).limit(SEARCHED)
    due = free.where(table.c.turn.is_(None), table.c.next_at <= now).order_by(table.c.next_at)
    served = free.where(table.c.turn.is_not(None), table.c.closed_at.is_(None)).order_by(table.c.turn_at)
    rows = [*connection.execute(due), *connection.execute(served)]
    if not rows:
        return dict.fromkeys(PRIORITIES, 0.0)
    waiting = first_waiting(
        connection, {row.id: (row.high_floor, row.normal_floor, row.low_floor) for row in rows}
    ).values()
    return {
        name: _age(min((at for at in ats if at is not None), default=None), now)
        for name, ats in zip(PRIORITIES, zip(*waiting, strict=True), strict=True)
    }


def _is(state: State) -> Any:
    # Spelled out in the statement: SQLite uses a partial index only if it sees the value.
    return schema.job.c.state == literal_column(f"'{state.value}'")


def _age(at: Micros | None, now: Micros) -> float:
    return 0.0 if at is None else max(0, now - at) / SECOND
