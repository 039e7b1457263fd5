"""Cancelling one job: the result depends on whether it has gone out, or may have."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, update

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.ledger.db import schema
from sendq.ledger.jobs import end_waiting, lock_jobs
from sendq.ledger.reading.lookup import no_such_job
from sendq.rules.job_change import cancel_event
from sendq.rules.states import MOVES, Event, State


def cancel(connection: Connection, job_id: UUID, *, now: Micros) -> State:
    """Cancel a job that has not gone out; returns its state afterwards.

    A job whose call is in flight stays ``sending``, and is cancelled only if the answer is "not sent". A job whose last
    outcome is unknown is not tried again: it is in doubt, and is cancelled once it is proven not to have gone out.

    Raises `NotFound`.
    """
    row = lock_jobs(connection, [job_id]).get(job_id)
    if row is None:
        raise no_such_job(job_id)
    state = after_cancel(row)
    if row.state == State.QUEUED:
        end_waiting(connection, {job_id: _event(row)}, now=now, rule="cancelled")
    if state in (State.SENDING, State.IN_DOUBT):
        table = schema.job
        connection.execute(update(table).where(table.c.id == job_id).values(cancel_at=now))
    return state


def after_cancel(row: LockedJob | Row[Any]) -> State:
    """The state that `cancel` leaves a job in."""
    return MOVES[State.QUEUED][_event(row)] if row.state == State.QUEUED else State(row.state)


def _event(row: LockedJob | Row[Any]) -> Event:
    return cancel_event(row.operation, may_have_gone_out=row.doubt_at is not None)
