"""Budgets in the ledger: one row each, locked whenever a send that it counts begins. Others cost no statement.

What is used up is seen at the claim: jobs are put off to the next windows, to each about as many as may begin in it,
with those due behind them that are over it too, and the rest of the lane goes on. That look locks nothing. What counts
is `reserve`, at the claim and at each later begin of a turn: it locks the rows, in their order, as the last rows that
its transaction locks. What need not wait any more is brought forward (`sendq.ledger.dispatching.budget_room`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    Text,
    Uuid,
    and_,
    bindparam,
    select,
    text,
    tuple_,
    update,
)

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger import events
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.jobs import lock_jobs
from sendq.rules.budgets import Budget, Budgets, Name, Use, UsedUp, goes_on_at, use_of
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import OVER_BUDGET
from sendq.rules.states import State

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500

NO_BUDGETS = Budgets()

_budget = schema.budget.c
_NAME = (_budget.application, _budget.tag, _budget.per)


class OverBudget(NamedTuple):
    """Jobs that were put off, and the budgets that they are over."""

    jobs: frozenset[UUID] = frozenset()
    budgets: frozenset[Budget] = frozenset()


def wait_for_budgets(
    connection: Connection,
    lanes: Mapping[UUID, Lane],
    found: Sequence[ClaimedJob],
    waiting: frozenset[UUID],
    budgets: Budgets,
    *,
    now: Micros,
) -> OverBudget:
    """Put off those of these jobs that are over a budget, and others that are due behind them.

    ``waiting``: jobs that have been put off already. If there are some, all of ``found`` are locked, and no others are
    put off, whose locks would come out of order.
    """
    counted = [job for job in found if job.id not in waiting and budgets.of(lanes[job.lane_id].application, job)]
    if not counted:
        return OverBudget()
    names = {one for job in counted for one in budgets.of(lanes[job.lane_id].application, job)}
    used_up = {use.budget: use for use in _uses(connection, names, now=now) if not use.has_room}
    if not used_up:
        return OverBudget()
    starts: dict[UUID, Micros] = {}
    over: set[Budget] = set()
    waits: Counter[tuple[UUID, Budget]] = Counter()

    def look(lane: Lane, job: ClaimedJob | _Due) -> None:
        mine = [used_up[one] for one in budgets.of(lane.application, job) if one in used_up]
        if mine and job.id not in starts:
            starts[job.id] = max(goes_on_at(use, lane.id, waits[lane.id, use.budget]) for use in mine)
            over.update(use.budget for use in mine)
            waits.update((lane.id, use.budget) for use in mine)

    for job in counted:
        look(lanes[job.lane_id], job)
    for lane_id in {job.lane_id for job in counted if job.id in starts and not waiting}:
        for due in _due(connection, lanes[lane_id], now=now):
            look(lanes[lane_id], due)
    # Those that are not put off too: the caller locks them later, and all are locked in the order of their ids.
    there = lock_jobs(connection, [*starts, *(job.id for job in found)])
    rows = [
        {"id": job_id, "next_at": at, "rule": OVER_BUDGET}
        for job_id, at in starts.items()
        if (locked := there.get(job_id)) is not None
        and locked.state == State.QUEUED
        and locked.next_at <= now  # it may have been held or rescheduled since it was read
        and not must_be_repeated(locked.operation, locked.doubt_at)
    ]
    update_rows(connection, schema.job, rows)
    return OverBudget(frozenset(starts), frozenset(over))


def reserve(
    connection: Connection,
    wanted: Sequence[tuple[UUID, tuple[Budget, ...]]],
    *,
    now: Micros,
    over: Collection[Budget] = (),
) -> set[UUID]:
    """Count jobs that begin now, each in all of its budgets; returns those that must not begin.

    ``over``: budgets for which jobs have been put off. It locks the budgets until the commit, so the transaction must
    have locked before all lanes, pairs and jobs that it locks.
    """
    needed = {one.name: one for _, mine in wanted for one in mine} | {one.name: one for one in over}
    if not needed:
        return set()
    before = _lock(connection, needed)
    uses = {name: _use(one, before[name], now=now) for name, one in needed.items()}
    for one in over:
        uses[one.name].go_over(now)
    refused: set[UUID] = set()
    for job_id, mine in wanted:
        full = [use for one in mine if not (use := uses[one.name]).has_room]
        for use in full:
            use.go_over(now)
        if full:
            refused.add(job_id)
            continue
        for one in mine:
            uses[one.name].used += 1
    for name, use in uses.items():
        _store(connection, before[name], use)
    return refused


def _lock(connection: Connection, needed: Mapping[Name, Budget]) -> dict[Name, Row[Any]]:
    """The rows of these budgets, locked in their order; those that are missing are made before any is locked."""
    names = sorted(needed)
    while True:
        there = {_name(row) for row in connection.execute(_rows(names))}
        for name in names:
            if name not in there:
                application, tag, per = name
                values = {"application": application, "tag": tag, "per": per, "most": needed[name].most}
                connection.execute(_MAKE, values)
        locked = {_name(row): row for row in connection.execute(_rows(names).with_for_update())}
        if len(locked) == len(names):  # else a leader with other settings has just deleted one
            return locked


_MAKE = text(
    "INSERT INTO sendq_budget (application, tag, per, most, window_at, used) VALUES (:application, :tag, :per, :most,"
    " 0, 0) ON CONFLICT (application, tag, per) DO NOTHING"
)


def _store(connection: Connection, before: Row[Any], use: Use) -> None:
    values = {"most": use.budget.most, "window_at": use.window_at, "used": use.used, "over_at": use.over_at}
    if any(getattr(before, name) != value for name, value in values.items()):
        connection.execute(update(schema.budget).where(_is(before)).values(**values))


def _uses(connection: Connection, budgets: Iterable[Budget], *, now: Micros) -> list[Use]:
    """How much of these budgets is used, of those that have ever been used."""
    of_name = {one.name: one for one in budgets}
    rows = connection.execute(_rows(sorted(of_name)))
    return [_use(of_name[_name(row)], row, now=now) for row in rows]


def _use(budget: Budget, row: Row[Any], *, now: Micros) -> Use:
    return use_of(budget, row.window_at, row.used, row.over_at, now=now)


def _rows(names: Sequence[Name]) -> Select[Any]:
    return select(schema.budget).where(tuple_(*_NAME).in_(names)).order_by(*_NAME)


def _name(row: Row[Any]) -> Name:
    return row.application, row.tag, row.per


def _is(row: Row[Any]) -> ColumnElement[bool]:
    return and_(_budget.application == row.application, _budget.tag == row.tag, _budget.per == row.per)


class _Due(NamedTuple):
    """What decides whether a job that is due is put off."""

    id: UUID
    operation: str
    doubt_at: Micros | None
    tags: str | None
    rule: str | None


def _due(connection: Connection, lane: Lane, *, now: Micros) -> Sequence[_Due]:
    """The first of a lane's jobs that are due, by priority."""
    found: list[_Due] = []
    for priority, floor in enumerate(lane.floors):
        values = {"lane": lane.id, "priority": priority, "floor": floor, "now": now, "most": STEP - len(found)}
        found += map(_Due._make, constant.rows(connection, _DUE, values))
    return found


# In the order of the index of waiting jobs, limited to how many may be put off, so that it is cheap in any lane.
_DUE = (
    text(
        "SELECT id, operation, doubt_at, tags, rule FROM sendq_job"
        " WHERE lane_id = :lane AND state = 'queued' AND priority = :priority AND next_at >= :floor AND next_at <= :now"
        " ORDER BY next_at, id LIMIT :most"
    )
    .bindparams(bindparam("lane", type_=Uuid()))
    .columns(id=Uuid(), operation=Text(), doubt_at=BigInteger(), tags=Text(), rule=Text())
)


# --- announcing -------------------------------------------------------------------------------------------------------


def announce(connection: Connection) -> list[UsedUp]:
    """Write an event for each budget that sends are over, once in a window; returns those that are new."""
    fresh = (_budget.over_at.is_not(None), (_budget.announced_at.is_(None)) | (_budget.announced_at < _budget.over_at))
    query = select(schema.budget).where(*fresh).order_by(*_NAME)
    if connection.execute(query).first() is None:
        return []
    found = []
    for row in connection.execute(query.with_for_update()).all():
        connection.execute(update(schema.budget).where(_is(row)).values(announced_at=row.over_at))
        until = row.over_at - row.over_at % row.per + row.per
        one = UsedUp(row.application, row.tag, row.most, row.per, until)
        events.append(
            connection, "over_budget", at=row.over_at, by="policy", application=one.application, tag=one.tag or None,
            rule=OVER_BUDGET, reason=one.says,
        )  # fmt: skip
        found.append(one)
    return found
