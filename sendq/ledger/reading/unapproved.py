"""Jobs that wait for approval, counted. They are in a partial index, in the order in which their time ends."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, or_, select

from sendq.clock import SECOND, Micros, moment
from sendq.ledger.db import schema
from sendq.ledger.reading.paging import literal
from sendq.rules.states import State
from sendq.views.status import APPROVALS_MOST, Approvals

# Long enough before the end that a person can act, even at night.
SOON: Micros = 6 * 3_600 * SECOND

_job = schema.job.c


def waiting() -> tuple[ColumnElement[bool], ...]:
    """The conditions of jobs that wait for approval, as the index has them."""
    return _job.state == literal(State.QUEUED), _job.approve_by.is_not(None), _job.approved_at.is_(None)


def decidable(*, now: Micros) -> tuple[ColumnElement[bool], ...]:
    """The conditions of those of them that can be approved or rejected now."""
    return *waiting(), _job.approve_by > now


def given_up(*, now: Micros) -> tuple[ColumnElement[bool], ...]:
    """The conditions of those of them that were not approved in time."""
    return *waiting(), _job.approve_by <= now


def not_waiting() -> ColumnElement[bool]:
    """The condition of all other waiting jobs: they need no approval, or have it."""
    return or_(_job.approve_by.is_(None), _job.approved_at.is_not(None))


def approvals(connection: Connection) -> Approvals:
    """How many there are, and when the first of them is given up."""
    some = select(_job.approve_by).where(*waiting()).order_by(_job.approve_by).limit(APPROVALS_MOST).subquery()
    number, first = connection.execute(select(func.count(), func.min(some.c.approve_by))).one()
    return Approvals(int(number), None if first is None else moment(first))


def by_application(connection: Connection, *, now: Micros) -> dict[str, tuple[int, int]]:
    """By application: how many there are, and how many of them are given up within `SOON`; of `APPROVALS_MOST`."""
    lane: Any = schema.lane.c
    first = select(_job.lane_id, _job.approve_by).where(*waiting()).order_by(_job.approve_by)
    some = first.limit(APPROVALS_MOST).subquery()
    soon = func.sum(case((some.c.approve_by < now + SOON, 1), else_=0))
    query = select(lane.application, func.count(), soon).join(some, some.c.lane_id == lane.id)
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query.group_by(lane.application))}
