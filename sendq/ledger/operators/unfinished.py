"""Unfinished jobs that match a filter: what a cancel, an approval or a rejection of many concerns.

Queued jobs are found slice by slice along the index of waiting jobs, so that a slice costs the same in a ledger of any
size; one that is moved meanwhile may be missed, and is found when the act is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, case, func, select, tuple_

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.reading.filters import JobFilter
from sendq.ledger.reading.paging import literal
from sendq.ledger.reading.unapproved import decidable
from sendq.rules.preflight import OPERATIONS, repeatable
from sendq.rules.states import State

# Jobs in one transaction: few enough that they stay locked for some ten milliseconds only.
STEP = 500

Place: TypeAlias = tuple[Any, ...]

_job = schema.job.c
_key = (_job.lane_id, _job.priority, _job.next_at, _job.id)


def queued(connection: Connection, which: JobFilter, *, after: Place | None) -> tuple[Sequence[Row[Any]], Place | None]:
    """Up to `STEP` queued jobs after a place, with application and grant, and the place of the next; None: no more."""
    statement = _matching(which, State.QUEUED, _job.priority, _job.next_at).order_by(*_key).limit(STEP)
    if after is not None:
        statement = statement.where(tuple_(*_key) > tuple_(*after))
    rows = connection.execute(statement).all()
    if len(rows) < STEP:
        return rows, None
    last = rows[-1]
    return rows, (last.lane_id, last.priority, last.next_at, last.id)


def sending(connection: Connection, which: JobFilter) -> Sequence[Row[Any]]:
    """The jobs whose call is in flight: at most as many as all workers make at once."""
    return connection.execute(_matching(which, State.SENDING).where(_job.cancel_at.is_(None)).order_by(_job.id)).all()


def after_cancel(connection: Connection, which: JobFilter) -> dict[State, int]:
    """The number of jobs that a cancel would change, by their state afterwards."""
    safe = [operation for operation in OPERATIONS if repeatable(operation)]
    doubtful = case((and_(_job.doubt_at.is_not(None), _job.operation.not_in(safe)), True), else_=False)
    found = _matching(which, State.QUEUED, doubtful.label("doubtful")).subquery()
    rows = connection.execute(select(found.c.doubtful, func.count().label("number")).group_by(found.c.doubtful))
    states = {State.IN_DOUBT if row.doubtful else State.CANCELLED: int(row.number) for row in rows}
    in_flight = len(sending(connection, which))
    return states | ({State.SENDING: in_flight} if in_flight else {})


def unapproved(
    connection: Connection, which: JobFilter, *, after: Place | None, now: Micros, began: Micros
) -> tuple[Sequence[UUID], Place | None]:
    """Up to `STEP` jobs that wait for approval and were enqueued by ``began``, after a place, and the place of the
    next; None: no more.
    """
    conditions = unapproved_conditions(which, now=now, began=began)
    statement = _joined(_job.approve_by).where(*conditions).order_by(_job.approve_by, _job.id).limit(STEP)
    if after is not None:
        statement = statement.where(tuple_(_job.approve_by, _job.id) > tuple_(*after))
    rows = connection.execute(statement).all()
    last = (rows[-1].approve_by, rows[-1].id) if len(rows) == STEP else None
    return [row.id for row in rows], last


def count_unapproved(connection: Connection, which: JobFilter, *, now: Micros) -> int:
    """How many of them there are."""
    found = _joined().where(*unapproved_conditions(which, now=now, began=now)).subquery()
    return int(connection.execute(select(func.count()).select_from(found)).scalar_one())


def unapproved_conditions(which: JobFilter, *, now: Micros, began: Micros) -> tuple[ColumnElement[bool], ...]:
    """The conditions of jobs that wait for approval and were enqueued by ``began``, joined with their lanes."""
    return (*decidable(now=now), _job.created_at <= began, *which.conditions(), *which.period.of_ids(_job.id))


def _matching(which: JobFilter, state: State, *more: ColumnElement[Any]) -> Select[Any]:
    return _joined(*more).where(_job.state == literal(state), *which.conditions(), *which.period.of_ids(_job.id))


def _joined(*more: ColumnElement[Any]) -> Select[Any]:
    lane = schema.lane.c
    columns = (_job.id, _job.lane_id, _job.batch_id, lane.application, lane.grant_id, lane.provider, *more)
    return select(*columns).outerjoin(schema.lane, lane.id == _job.lane_id)
