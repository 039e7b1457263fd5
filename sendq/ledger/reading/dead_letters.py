"""Dead letters, for the person who looks after them: how many of each rule, and one by one with what the API said.

Counts, times and order come from the partial index of dead letters, so nothing here costs more when millions of other
jobs are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from sendq.clock import Micros, moment
from sendq.ledger.db import schema
from sendq.ledger.reading.listing import literal
from sendq.rules.states import State
from sendq.views import plain


@dataclass(frozen=True, slots=True)
class Which:
    """Which dead letters: those that fit everything that is given. ``since``: given up then or later."""

    rule: str | None = None
    lane_id: UUID | None = None
    batch_id: UUID | None = None
    since: Micros | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL has them."""
        job = schema.job.c
        found = [job.state == literal(State.DEAD)]
        for column, value in ((job.rule, self.rule), (job.lane_id, self.lane_id), (job.batch_id, self.batch_id)):
            if value is not None:
                found.append(column == value)
        if self.since is not None:
            found.append(job.finished_at >= self.since)
        return found


@dataclass(frozen=True, slots=True)
class OfRule:
    """The dead letters of one rule: how many, and when the first and the last of them were given up."""

    rule: str | None
    number: int
    oldest: datetime
    newest: datetime


def by_rule(connection: Connection, which: Which) -> list[OfRule]:
    """Dead letters by the rule that gave them up, the most first."""
    job = schema.job.c
    rows = connection.execute(
        select(
            job.rule,
            func.count().label("number"),
            func.min(job.finished_at).label("oldest"),
            func.max(job.finished_at).label("newest"),
        )
        .where(*which.conditions())
        .group_by(job.rule)
    )
    found = [OfRule(row.rule, row.number, moment(row.oldest), moment(row.newest)) for row in rows]
    return sorted(found, key=lambda one: (-one.number, one.rule or ""))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter in a list; ``status`` and ``error`` are those of its last attempt."""

    id: str
    rule: str | None
    operation: str
    application: str | None
    grant_id: str | None
    batch_id: str | None
    created_at: datetime
    given_up_at: datetime
    attempts: int
    status: int | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


def letters(connection: Connection, which: Which, *, after: UUID | None = None, limit: int) -> list[Letter]:
    """Up to ``limit`` dead letters, those that were given up last first; ``after``: behind this one in the list."""
    job, lane = schema.job, schema.lane
    place = (job.c.finished_at, job.c.id)
    statement = (
        select(job, lane.c.application, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(*which.conditions())
        .order_by(*(column.desc() for column in place))
        .limit(limit)
    )
    if after is not None:
        before = select(job.c.finished_at).where(job.c.id == after).scalar_subquery()
        statement = statement.where(tuple_(*place) < tuple_(before, after))
    rows = connection.execute(statement).all()
    last = _last_attempts(connection, [row.id for row in rows])
    return [
        Letter(
            id=str(row.id),
            rule=row.rule,
            operation=row.operation,
            application=row.application,
            grant_id=row.grant_id,
            batch_id=None if row.batch_id is None else str(row.batch_id),
            created_at=moment(row.created_at),
            given_up_at=moment(row.finished_at),
            attempts=row.attempts,
            status=last[row.id].status if row.id in last else None,
            error=last[row.id].error if row.id in last else None,
        )
        for row in rows
    ]


def _last_attempts(connection: Connection, jobs: Collection[UUID]) -> dict[UUID, Any]:
    table = schema.attempt.c
    wanted = select(table.job_id, table.status, table.error).where(table.job_id.in_(jobs))
    return {row.job_id: row for row in connection.execute(wanted.order_by(table.begun_at, table.id))}
