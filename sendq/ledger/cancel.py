"""Cancelling jobs: the result depends on whether they have gone out, or may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, update

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.jobs import end_waiting, lock_jobs
from sendq.ledger.reading.lookup import job_row, no_such_job
from sendq.ledger.waiting_jobs import lane_of
from sendq.rules.job_change import cancel_event
from sendq.rules.states import FINAL, MOVES, Event, State


def cancel(connection: Connection, job_id: UUID, *, now: Micros) -> State:
    """Cancel a job that has not gone out; returns its state afterwards.

    A job whose call is in flight stays ``sending``, and is cancelled only if the answer is "not sent". A job whose last
    outcome is unknown is not tried again: it is in doubt, and is cancelled once it is proven not to have gone out.

    Raises `NotFound`.
    """
    states = cancel_some(connection, [job_id], now=now)
    if job_id not in states:
        raise no_such_job(job_id)
    return states[job_id]


def cancel_by(connection: Connection, job_id: UUID, *, by: str, reason: str | None, now: Micros) -> State:
    """`cancel`, with an event that has its author and reason, unless the job had ended before."""
    row = job_row(connection, job_id)
    before = lock_jobs(connection, [job_id])  # it may have ended since
    state = cancel(connection, job_id, now=now)
    if State(before[job_id].state) not in FINAL:
        of = {"job_id": job_id, "batch_id": row.batch_id, **lane_of(connection, row)}
        events.append(connection, "cancel", at=now, by=by, reason=reason, **of)
    return state


def cancel_some(connection: Connection, ids: Sequence[UUID], *, now: Micros) -> dict[UUID, State]:
    """Cancel those of these jobs that have not ended; returns the state of each afterwards, without unknown ones."""
    rows = lock_jobs(connection, ids)
    states = {job_id: after_cancel(row) for job_id, row in rows.items()}
    queued = {job_id: _event(row) for job_id, row in rows.items() if row.state == State.QUEUED}
    end_waiting(connection, queued, now=now, rule="cancelled")
    later = [job_id for job_id, state in states.items() if state in (State.SENDING, State.IN_DOUBT)]
    if later:
        table = schema.job
        connection.execute(update(table).where(table.c.id.in_(later)).values(cancel_at=now))
    return states


def after_cancel(row: LockedJob | Row[Any]) -> State:
    """The state that `cancel` leaves a job in."""
    return MOVES[State.QUEUED][_event(row)] if row.state == State.QUEUED else State(row.state)


def _event(row: LockedJob | Row[Any]) -> Event:
    return cancel_event(row.operation, may_have_gone_out=row.doubt_at is not None)
