"""Sends that wait for a budget longer than they need to: the leader brings them forward.

A send is put off by as many windows as others of its lane before it need. It may begin earlier if the budget is raised
or removed, or if some of the others are cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, literal_column, or_, select, tuple_

from sendq.clock import SECOND, Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import lock_jobs
from sendq.rules.budgets import Budget, Budgets, Name, spread_of, use_of
from sendq.rules.rule_ids import OVER_BUDGET
from sendq.rules.states import State

# Sends that are looked at in one query, without a lock.
PAGE = 5_000

# The start and the id of the send after which to look.
Place = tuple[Micros, UUID]

# Once a window has begun, and its lanes with it, after so long: those that begin in it have been counted.
_COUNTED_AFTER = 2 * SECOND

_budget, _job, _lane = schema.budget.c, schema.job.c, schema.lane.c


class Room(NamedTuple):
    """How many more sends each budget lets begin now, and marks of those budgets for whose windows sends have waited: a
    mark changes with the window.
    """

    of: dict[Budget, int]
    marks: frozenset[tuple[Name, Micros, Micros]]


def room(connection: Connection, budgets: Budgets, *, now: Micros) -> Room:
    """What is left of these budgets; nothing of those whose window has only just begun."""
    rows = {(row.application, row.tag, row.per): row for row in connection.execute(select(schema.budget))}
    left: dict[Budget, int] = {}
    marks = set()
    for budget in budgets.all:
        row = rows.get(budget.name)
        if row is None:
            left[budget] = budget.most
            continue
        use = use_of(budget, row.window_at, row.used, row.over_at, now=now)
        begins = now < use.window_at + spread_of(budget.per) + _COUNTED_AFTER
        left[budget] = 0 if begins else max(0, budget.most - use.used)
        if use.over_at is not None and left[budget]:
            marks.add((budget.name, use.over_at, use.window_at))
    return Room(left, frozenset(marks))


def forget(connection: Connection, budgets: Budgets, *, now: Micros) -> None:
    """Delete what was used of budgets that there are no more, once their windows are over: workers with other settings
    may still count in the current one.
    """
    known = {budget.name for budget in budgets.all}
    over = _budget.window_at + _budget.per <= now
    names = connection.execute(select(_budget.application, _budget.tag, _budget.per).where(over)).all()
    for name in sorted(tuple(row) for row in names):  # the order in which they are locked everywhere
        if name not in known:
            application, tag, per = name
            this = (_budget.application == application, _budget.tag == tag, _budget.per == per)
            connection.execute(delete(schema.budget).where(*this, over))


def choose(
    connection: Connection, budgets: Budgets, left: dict[Budget, int], *, after: Place, now: Micros
) -> tuple[list[Row[Any]], Place | None]:
    """Those of the next `PAGE` sends that wait for a budget which may begin now: each of their budgets has room, or
    does not exist any more. ``left`` counts down.

    Also returns where to continue; None: there are no more.
    """
    page = connection.execute(_waiting(after, now=now)).all()
    chosen = []
    for row in page:
        mine = budgets.of(row.application, row)
        if all(left[one] > 0 for one in mine):
            chosen.append(row)
            left |= {one: left[one] - 1 for one in mine}
    return chosen, (page[-1].next_at, page[-1].id) if len(page) == PAGE else None


def bring_forward(connection: Connection, chosen: Sequence[Row[Any]], *, now: Micros) -> None:
    """Have these sends begin now, as far as they still wait as they were read (at most `STEP`)."""
    there = lock_jobs(connection, [row.id for row in chosen])
    rows = [
        row
        for row in chosen
        if (job := there.get(row.id)) is not None and job.state == State.QUEUED and job.next_at == row.next_at
    ]
    starts = {row.id: now + position for position, row in enumerate(rows)}
    update_rows(connection, schema.job, [{"id": row.id, "next_at": starts[row.id]} for row in rows])
    if rows:
        append_wakes(connection, wakes_of(rows, starts), at=now)


def _waiting(after: Place, *, now: Micros) -> Select[Any]:
    """The next sends that wait for a budget and whose accounts may begin, in the order of their times; not those that a
    person or program gave another time since.
    """
    return (
        select(
            _job.id, _job.lane_id, _job.priority, _job.next_at, _job.operation, _job.doubt_at, _job.tags, _job.rule,
            _lane.application, _lane.grant_id, _lane.provider,
        )
        .join(schema.lane, _lane.id == _job.lane_id)
        # As the condition of the index has them.
        .where(_job.state == _QUEUED, _job.rule == _OVER_BUDGET)
        .where(tuple_(_job.next_at, _job.id) > after, _job.due_at <= now, _job.resume_at.is_(None))
        .where(_lane.closed_at.is_(None), or_(_lane.held_until.is_(None), _lane.held_until <= now))
        .where(_lane.ready_at <= now)
        .order_by(_job.next_at, _job.id)
        .limit(PAGE)
    )  # fmt: skip


_QUEUED: ColumnElement[str] = literal_column(f"'{State.QUEUED.value}'")
_OVER_BUDGET: ColumnElement[str] = literal_column(f"'{OVER_BUDGET}'")
