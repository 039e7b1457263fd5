"""Lists of jobs for people: the newest first, page by page, of whatever fits.

Ids of jobs sort by the time of their enqueue, so both the order and the times that are asked for are those of the
primary key. States that few jobs are in are asked for literally: their partial indexes are seen to fit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, bindparam, or_, select

from sendq.clock import Micros, moment
from sendq.ids import first_id
from sendq.ledger.db import schema
from sendq.rules.states import State
from sendq.views import Priority, plain


@dataclass(frozen=True, slots=True)
class Which:
    """Which jobs: those that fit everything that is given. ``since`` and ``until``: when they were enqueued."""

    states: Collection[State] = ()
    rule: str | None = None
    lane_id: UUID | None = None
    batch_id: UUID | None = None
    operation: str | None = None
    priority: Priority | None = None
    since: Micros | None = None
    until: Micros | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL has them."""
        job = schema.job.c
        found: list[ColumnElement[bool]] = []
        if self.states:
            found.append(or_(*(job.state == literal(state) for state in sorted(self.states))))
        for column, value in (
            (job.rule, self.rule),
            (job.lane_id, self.lane_id),
            (job.batch_id, self.batch_id),
            (job.operation, self.operation),
            (job.priority, None if self.priority is None else self.priority.value),
        ):
            if value is not None:
                found.append(column == value)
        if self.since is not None:
            found.append(job.id >= first_id(self.since))
        if self.until is not None:
            found.append(job.id < first_id(self.until))
        return found


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list. ``grant_id`` is None while the dispatcher has not yet seen the job's lane."""

    id: str
    state: State
    operation: str
    priority: Priority
    application: str | None
    grant_id: str | None
    batch_id: str | None
    created_at: datetime
    next_at: datetime
    finished_at: datetime | None
    attempts: int
    rule: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


def latest_jobs(connection: Connection, which: Which, *, after: UUID | None = None, limit: int) -> list[JobLine]:
    """Up to ``limit`` jobs, those that were enqueued last first; ``after``: behind this one in the list."""
    job, lane = schema.job, schema.lane
    statement = (
        select(job, lane.c.application, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(*which.conditions())
        .order_by(job.c.id.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(job.c.id < after)
    return [_line(row) for row in connection.execute(statement)]


def literal(state: State) -> ColumnElement[str]:
    """A state spelled out in the statement: SQLite uses a partial index only if it sees the value."""
    return bindparam(None, state.value, literal_execute=True)


def _line(row: Row[Any]) -> JobLine:
    return JobLine(
        id=str(row.id),
        state=State(row.state),
        operation=row.operation,
        priority=Priority(row.priority),
        application=row.application,
        grant_id=row.grant_id,
        batch_id=str(row.batch_id) if row.batch_id else None,
        created_at=moment(row.created_at),
        next_at=moment(row.next_at),
        finished_at=None if row.finished_at is None else moment(row.finished_at),
        attempts=row.attempts,
        rule=row.rule,
    )
