"""Bringing back the times that a clock which was ahead has written, in steps of some lanes (`sendq.rules.set_back`).

Every step may be repeated: what has been brought back is not found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    update,
)

from sendq.clock import SECOND, Micros
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import lock_pairs, write_pair
from sendq.ledger.enqueue import append_wakes, notify, wakes_of
from sendq.ledger.jobs import lock_jobs
from sendq.rules.budgets import LONGEST_SPREAD, WHOLE, window_of
from sendq.rules.lane_change import CHECK_MOST
from sendq.rules.pace import BEHAVES_AFTER
from sendq.rules.rule_ids import OVER_BUDGET
from sendq.rules.set_back import ASK_MOST, SLACK, lane_columns, pair_columns
from sendq.rules.states import State

_EXACTLY = SECOND

# Sends over a budget in one transaction: each looks at all waiting jobs, and no turn wants the rows that it locks.
BUDGET_STEP = 5_000

_lane, _job, _attempt, _delivery = schema.lane.c, schema.job.c, schema.attempt.c, schema.delivery.c


@dataclass(frozen=True, slots=True)
class BroughtBack:
    """What one step changed. ``after``: where the next one continues; None: that was the last."""

    after: UUID | None
    lanes: int = 0
    jobs: int = 0


def lanes_step(connection: Connection, *, after: UUID, limit: int, now: Micros) -> BroughtBack:
    """Bring back the next ``limit`` lanes after an id that lie too far ahead, with their jobs that were tried."""
    ids = list(
        connection.execute(
            select(_lane.id).where(_lane.id > after, or_(*_too_far_ahead(now))).order_by(_lane.id).limit(limit)
        ).scalars()
    )
    changes = lock_changes(connection, ids)
    jobs = _bring_back_jobs(connection, ids, now=now)
    lanes = 0
    for change in changes.values():
        lane, columns = change.lane, lane_columns(change.lane, now=now)
        lanes += bool(columns) or (lane.next_at or 0) > max(now, lane.ready_at) + SLACK
        change.columns |= columns
        change.scan_all()
    notify(connection, at=write_changes(connection, changes.values(), now=now))
    return BroughtBack(ids[-1] if len(ids) == limit else None, lanes, jobs)


def _too_far_ahead(now: Micros) -> list[ColumnElement[bool]]:
    """Conditions for lanes; each is narrower than what a lane's row alone can tell, or wider (the pace)."""
    since = [
        column > now + SLACK
        for column in (_lane.served_at, _lane.turn_at, _lane.closed_at, _lane.opened_at, _lane.held_since)
    ]
    most = [
        _lane.ready_at > now + SLACK,
        _lane.spacing_until > now + BEHAVES_AFTER,
        _lane.check_at > now + CHECK_MOST,
        _lane.ask_at > now + ASK_MOST,
    ]
    # Its turn was planned by a clock that was ahead: something is due, and nothing else delays it.
    due = exists().where(_job.lane_id == _lane.id, _job.state == State.QUEUED.value, _job.next_at <= now)
    planned = (_lane.next_at > now + SLACK) & (func.coalesce(_lane.held_until, 0) <= now) & due
    return [*since, *most, planned, _lane.id.in_(select(_tried_ahead(now).c.lane_id))]


def _tried_ahead(now: Micros) -> Subquery:
    """Waiting jobs whose last attempt lies in the future, and so does what it said about the next one.

    Not those that wait for a time that a person or program asked for: `_EXACTLY` is more than the jobs of a call are
    apart.
    """
    return (
        select(_job.id, _job.lane_id, func.max(_attempt.ended_at).label("ended_at"))
        .join(schema.attempt, _attempt.job_id == _job.id)
        .where(_job.state == State.QUEUED.value, _job.next_at > now + SLACK, _job.rule.is_not(None))
        .where(_attempt.ended_at > now + SLACK, _job.resume_at.is_(None), _job.next_at > _job.due_at + _EXACTLY)
        .group_by(_job.id, _job.lane_id)
        .subquery()
    )


def _bring_back_jobs(connection: Connection, lanes: list[UUID], *, now: Micros) -> int:
    tried = _tried_ahead(now)
    ended = {row.id: row.ended_at for row in connection.execute(select(tried).where(tried.c.lane_id.in_(lanes))).all()}
    jobs = [job for job in lock_jobs(connection, list(ended)).values() if job.state == State.QUEUED]
    ahead = {job.id: ended[job.id] - now for job in jobs}
    update_rows(connection, schema.job, [{"id": job.id, "next_at": job.next_at - ahead[job.id]} for job in jobs])
    for job_id, by in ahead.items():  # their attempts are what they were recognised by
        values = {"begun_at": _attempt.begun_at - by, "ended_at": _attempt.ended_at - by}
        theirs = update(schema.attempt).where(_attempt.job_id == job_id, _attempt.ended_at > now)
        connection.execute(theirs.values(values))
    return len(jobs)


def pairs_step(connection: Connection, *, now: Micros) -> int:
    """Bring back the holds of providers and applications; returns how many."""
    table = schema.pair.c
    ahead = or_(table.held_since > now + SLACK, table.proven_at > now + SLACK)
    applications = set(connection.execute(select(table.application).where(ahead)).scalars())
    changed = 0
    for name, pair in lock_pairs(connection, applications).items() if applications else ():
        columns = pair_columns(pair, now=now)
        if columns:
            write_pair(connection, *name, columns)
            changed += 1
    return changed


def deliveries_step(connection: Connection, *, now: Micros) -> int:
    """Bring back the next tries of deliveries; returns how many."""
    changed = 0
    ahead = (_delivery.state == "waiting", _delivery.next_at > now + SLACK)
    for column in (_delivery.created_at, _delivery.tried_at):
        moved = update(schema.delivery).where(*ahead, column > now + SLACK)
        values = {"next_at": _delivery.next_at - (column - now), column.name: now}
        changed += connection.execute(moved.values(values)).rowcount
    return changed


def budgets_are_ahead(connection: Connection, *, now: Micros) -> bool:
    """Whether `budgets_step` has something to do. It only reads."""
    return connection.execute(select(schema.budget.c.per).where(*_ahead(now)).limit(1)).first() is not None


def _ahead(now: Micros) -> tuple[ColumnElement[bool], ...]:
    return (schema.budget.c.window_at > now + SLACK,)


def budgets_step(connection: Connection, *, now: Micros) -> int:
    """Bring back some of the sends that wait for a window of a budget that lies ahead, and the window with the last of
    them; returns how many sends, 0: there are no more.

    Only once all workers have the right time: one that has not begins the window of the future again, with none used.
    """
    budget = schema.budget.c
    ahead = connection.execute(select(schema.budget).where(*_ahead(now)).order_by(*schema.budget.primary_key)).all()
    ends: dict[str, dict[str, Micros]] = {}
    for row in ahead:
        mine = ends.setdefault(row.application, {})
        mine[row.tag] = max(mine.get(row.tag, 0), window_of(now, row.per) + row.per + LONGEST_SPREAD)
    sends = [_bring_back_sends(connection, name, by_tag, now=now) for name, by_tag in sorted(ends.items())]
    if BUDGET_STEP in sends:  # there may be more, and the windows are what they are recognised by
        return sum(sends)
    # After the sends, as everywhere: no other transaction locks a job after a budget.
    for row in ahead:
        columns: dict[str, Micros] = {"window_at": window_of(now, row.per)}  # what was used counts on
        columns |= {name: now for name in ("over_at", "announced_at") if (getattr(row, name) or 0) > now}
        this = (budget.application == row.application, budget.tag == row.tag, budget.per == row.per)
        connection.execute(update(schema.budget).where(*this).values(columns))
    return sum(sends)


def _bring_back_sends(connection: Connection, application: str, ends: Mapping[str, Micros], *, now: Micros) -> int:
    """Bring back some sends that one of these budgets put off to later than its next window. ``ends``: by tag, when the
    current window and the spread of its lanes are over.
    """
    until = func.coalesce(_job.resume_at, _job.next_at)
    # As `sendq.rules.tags.stored_tags` has them: with a space between two.
    padded = literal(" ") + func.coalesce(_job.tags, "") + " "
    theirs = [
        and_(until > at + SLACK, true() if tag == WHOLE else padded.contains(f" {tag} ", autoescape=True))
        for tag, at in sorted(ends.items())
    ]
    query = (
        select(
            _job.id, _job.lane_id, _job.priority, _job.resume_at, _job.due_at, _job.created_at, _lane.application,
            _lane.grant_id, _lane.provider,
        )
        .join(schema.lane, _lane.id == _job.lane_id)
        .where(_job.state == State.QUEUED.value, _job.rule == OVER_BUDGET, _lane.application == application)
        .where(or_(*theirs))
        # Not those that a person or program rescheduled since. A due time may be from a clock that was ahead, too.
        .where(func.abs(until - _job.due_at) > _EXACTLY)
        .order_by(_job.id)
        .limit(BUDGET_STEP)
        .with_for_update(of=schema.job)
    )  # fmt: skip
    rows = connection.execute(query).all()
    starts = {row.id: max(now + position, _named_due(row, now=now)) for position, row in enumerate(rows)}
    free = [row for row in rows if row.resume_at is None]
    held = [row for row in rows if row.resume_at is not None]
    later = {row.id for row in rows if starts[row.id] > now + BUDGET_STEP}  # they wait for their due time alone
    update_rows(
        connection,
        schema.job,
        [{"id": row.id, "next_at": starts[row.id], "rule": None if row.id in later else OVER_BUDGET} for row in free],
    )
    update_rows(connection, schema.job, [{"id": row.id, "resume_at": starts[row.id]} for row in held])
    if free:
        append_wakes(connection, wakes_of(free, starts), at=now)
    return len(rows)


def _named_due(row: Any, *, now: Micros) -> Micros:
    """The due time that the caller set; 0 if it is the time of the call, by a clock that was ahead."""
    by_the_call = row.created_at > now + SLACK and abs(row.due_at - row.created_at) <= _EXACTLY
    return 0 if by_the_call else row.due_at


def note(connection: Connection, *, behind: Micros, lanes: int, jobs: int, now: Micros) -> None:
    """Record that the clock was set back, and what was brought back for it."""
    reason = f"by {round(behind / SECOND)} s; brought back: {lanes} lanes, {jobs} jobs"
    events.append(connection, "clock_set_back", at=now, by="policy", reason=reason)
