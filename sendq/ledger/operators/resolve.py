"""Resolve: end doubts with an operator's answer, a few hundred jobs in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, select

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.delivery_status import known_as_sent
from sendq.ledger.doubt import IN_DOUBT, Ending, settle
from sendq.ledger.operators.retry import CHUNK
from sendq.ledger.reading.filters import EVERY_JOB, JobFilter
from sendq.rules.by_hand import Answer, ResendRefusal
from sendq.rules.states import Event

_ANSWERS = {
    Answer.SENT: (Event.ACCEPT, "resolved_sent"),
    Answer.RESEND: (Event.RETURN, "resolved_resent"),
    Answer.DEAD: (Event.GIVE_UP, "resolved_dead"),
}


@dataclass(frozen=True, slots=True)
class DoubtSelection:
    """Jobs in doubt: those with these ids, or those that match the filter; its period is when they were enqueued."""

    jobs: Sequence[UUID] | None = None
    which: JobFilter = EVERY_JOB


@dataclass(frozen=True, slots=True)
class DoubtPart:
    """Some jobs in doubt, in the order of their ids. ``after``: where the next ones begin; None: no more."""

    ready: Sequence[Row[Any]]
    refused: Mapping[UUID, ResendRefusal]
    after: UUID | None


def find(
    connection: Connection, which: DoubtSelection, answer: Answer, *, after: UUID | None, limit: int = CHUNK
) -> DoubtPart:
    """Look at up to ``limit`` jobs in doubt after ``after``; nothing is changed."""
    job, lane = schema.job, schema.lane
    statement = (
        select(job, and_(lane.c.closed_at.is_not(None), lane.c.gone).label("gone"))
        .join(lane, lane.c.id == job.c.lane_id)
        .where(job.c.state == IN_DOUBT, *which.which.conditions(), *which.which.period.of_ids(job.c.id))
        .order_by(job.c.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(job.c.id > after)
    if which.jobs is not None:
        statement = statement.where(job.c.id.in_(which.jobs))
    rows = connection.execute(statement).all()
    refused: dict[UUID, ResendRefusal] = {}
    if answer is Answer.RESEND:
        refused |= {row.id: ResendRefusal.CANCELLED for row in rows if row.cancel_at is not None}
        refused |= {row.id: ResendRefusal.GONE for row in rows if row.gone}
        reported = known_as_sent(connection, [row.id for row in rows])
        refused |= {row.id: ResendRefusal.WENT_OUT for row in rows if reported.get(row.id) == row.generation}
    return DoubtPart(
        [row for row in rows if row.id not in refused], refused, rows[-1].id if len(rows) == limit else None
    )


def resolve(
    connection: Connection,
    which: DoubtSelection,
    answer: Answer,
    *,
    by: str,
    reason: str,
    now: Micros,
    message_id: str | None = None,
    first_at: Micros = 0,
    apart: Micros = 0,
    act: UUID | None = None,
    after: UUID | None = None,
    limit: int = CHUNK,
) -> DoubtPart:
    """Resolve up to ``limit`` jobs in doubt after ``after``; they are the result's ``ready``.

    The first that is sent again may start at ``first_at``, and each further one ``apart`` later. ``act``: the event of
    the act that this is a part of.
    """
    seen = find(connection, which, answer, after=after, limit=limit)
    event, rule = _ANSWERS[answer]
    ending = Ending(event, rule, message_id=message_id, reason=reason)
    # At least a microsecond apart, as for new jobs.
    starts = {row.id: max(now, first_at) + position * max(1, apart) for position, row in enumerate(seen.ready)}
    endings = {row.id: ending for row in seen.ready}
    done = settle(connection, endings, by=by, now=now, even_late=True, starts=starts, act=act)
    return replace(seen, ready=done)
