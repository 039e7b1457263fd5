"""Dead letters: counts by rule, and lists with the API's last answer.

Counts, times and order come from the partial index of dead letters, or from that of finished jobs, so that millions of
other jobs in the ledger do not make them slower.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select

from sendq.clock import moment
from sendq.ledger.db import schema
from sendq.ledger.reading.filters import ANYWHERE, JobFilter
from sendq.ledger.reading.paging import cursor, literal, place, walk
from sendq.ledger.reading.rows import as_list, as_one
from sendq.rules.states import State
from sendq.views import DeadLetter, DeadLetterCount, Page


def _within(which: JobFilter) -> list[ColumnElement[bool]]:
    """The conditions that the indexes of dead letters serve."""
    job = schema.job.c
    conditions = [job.state == literal(State.DEAD), *which.period.of_times(job.finished_at)]
    return conditions if which.rule is None else [*conditions, job.rule == which.rule]


def counts_by_rule(connection: Connection, which: JobFilter, *, each: str | None = None) -> list[DeadLetterCount]:
    """Dead letters by the rule that gave them up, the most frequent first. Reads all of them, from their index.

    ``each``: for each ``provider`` or ``application``, too.
    """
    job, lane = schema.job, schema.lane
    groups = [job.c.rule] if each is None else [job.c.rule, lane.c[each]]
    query = select(
        *groups,
        func.count().label("number"),
        func.min(job.c.finished_at).label("oldest"),
        func.max(job.c.finished_at).label("newest"),
    ).where(*_within(which), *which.conditions(without=["rule"]))
    if each is not None or (which.scope.lane_id is None and which.scope != ANYWHERE):
        query = query.join(lane, lane.c.id == job.c.lane_id)
    counts = as_list(DeadLetterCount, connection.execute(query.group_by(*groups)))
    return sorted(counts, key=lambda one: (-one.number, one.rule or ""))


def dead_letters(connection: Connection, which: JobFilter, *, after: str | None = None, limit: int) -> Page[DeadLetter]:
    """Dead letters, the most recently given up first; ``period`` is when. Raises `InvalidArgument`."""
    job, lane = schema.job, schema.lane
    names = ("id", "rule", "operation", "batch_id", "created_at", "attempts", "finished_at")
    query = select(*(job.c[name] for name in names), lane.c.application, lane.c.grant_id).outerjoin(
        lane, lane.c.id == job.c.lane_id
    )
    at = place("dead_letters", after, int, UUID)
    rows, last = walk(
        connection, query, [job.c.finished_at, job.c.id],
        within=[*_within(which), job.c.finished_at.is_not(None)],
        filters=which.conditions(without=["rule"]), after=at, limit=limit,
    )  # fmt: skip
    answers = _last_answers(connection, [row.id for row in rows])
    none = Answer(None, None, None)
    letters = [(row, answers.get(row.id, none)) for row in rows]
    return Page(
        tuple(
            as_one(DeadLetter, row, given_up_at=moment(row.finished_at), status=answer.status, error=answer.error)
            for row, answer in letters
        ),
        cursor("dead_letters", last),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """The API's last answer."""

    job_id: UUID | None
    status: int | None
    error: str | None


def _last_answers(connection: Connection, jobs: Collection[UUID]) -> dict[UUID | None, Answer]:
    table = schema.attempt.c
    query = select(table.job_id, table.status, table.error).where(table.job_id.in_(jobs))
    answers = as_list(Answer, connection.execute(query.order_by(table.begun_at, table.id)))
    return {answer.job_id: answer for answer in answers}
