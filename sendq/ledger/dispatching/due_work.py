"""Whether a ledger has anything to do now: how `worker.testing` knows that it is done."""

from __future__ import annotations

from sqlalchemy import Connection, exists, select, text

from sendq.clock import Micros
from sendq.ledger.db import schema
from sendq.ledger.dispatching import followers
from sendq.ledger.dispatching.pairs import read_pairs
from sendq.rules.states import State

_UNFINISHED = (State.QUEUED, State.SENDING, State.IN_DOUBT)


def has_due_work(connection: Connection, *, now: Micros) -> bool:
    """Whether there are jobs that no dispatcher has seen, open turns, lanes that are due, batches to be continued, or
    jobs that follow another and may go on.

    What waits for a time, a hold, its lane's pace or a sign-in is not due. ``connection`` must not have read anything
    in its transaction yet.
    """
    if connection.dialect.name == "postgresql":
        # A lane whose turn begins between two of these statements would be seen by neither: not in a turn, nor due.
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    lane, batch, job = schema.lane.c, schema.batch.c, schema.job.c
    unfinished = exists().where(job.batch_id == batch.id, job.state.in_(_UNFINISHED))
    for query in (
        select(schema.wake.c.id),
        select(lane.id).where(lane.turn.is_not(None)),
        select(batch.id).where(
            batch.finished_at.is_(None), ~batch.open, ~unfinished
        ),  # the leader makes its jobs, or ends it
    ):
        if connection.execute(query.limit(1)).first() is not None:
            return True
    if followers.may_go_on(connection, now=now):
        return True
    return any(pair.wants_at <= now for pair in read_pairs(connection))
