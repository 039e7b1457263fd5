"""Erasure: remove what the ledger keeps of a grant's mail, and cancel what waits (``sendq forget``).

    erased     bodies, what messages were before a change, texts of errors and of bounces, what became of each
               recipient's copy, addresses in outcomes, the digests of keys (a key still finds its job, and a
               repeat with it still sends no second mail) and of replaced requests, and the ids of messages with the
               jobs that follow theirs: one of another grant that cannot be sent without it ends as ``after_failed``
    kept       the record of each job: its ids, times, states and rules, and keys as the application wrote them
    left       jobs in flight or in doubt: their bodies are needed to find out whether they were sent. A job in flight
               is cancelled if its call was not sent. Forget the grant again once they have ended

Each step of `STEP` jobs is one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select, tuple_, update

from sendq.clock import Micros
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, update_rows
from sendq.ledger.dispatching.parked import lock_rows
from sendq.ledger.jobs import end_waiting, lock_jobs
from sendq.ledger.retention import delete_where, erase_bodies
from sendq.rules.after import needs_message_id
from sendq.rules.job_change import cancel_event
from sendq.rules.states import FINAL, State

STEP = 500

_ENDED = tuple(state.value for state in FINAL)


@dataclass(frozen=True, slots=True)
class GrantRecords:
    """What the ledger has for a grant: ids of its jobs and batches, and its keys as (application, key)."""

    jobs: Sequence[UUID]
    batches: Sequence[UUID]
    keys: Sequence[tuple[str, str]]


@dataclass(slots=True)
class Tally:
    """Numbers of jobs that were cancelled or erased, and of those left: in flight or in doubt."""

    cancelled: int = 0
    erased: int = 0
    in_flight: int = 0
    in_doubt: int = 0

    @property
    def left(self) -> int:
        """Jobs whose bodies still exist."""
        return self.in_flight + self.in_doubt


def find(connection: Connection, lane_id: UUID) -> GrantRecords:
    """Everything that belongs to a lane. Reads every job and key of the ledger once; locks nothing."""
    job, batch, key = schema.job.c, schema.batch.c, schema.key.c
    jobs = connection.execute(select(job.id).where(job.lane_id == lane_id).order_by(job.id)).scalars().all()
    batches = connection.execute(select(batch.id).where(batch.lane_id == lane_id).order_by(batch.id)).scalars().all()
    named = select(key.application, key.key).outerjoin(schema.job, job.id == key.job_id)
    named = named.outerjoin(schema.batch, batch.id == key.batch_id)
    # The digest of a batch over several grants covers this one's messages too.
    shared = select(job.batch_id).where(job.lane_id == lane_id, job.batch_id.is_not(None))
    of_lane = (job.lane_id == lane_id) | (batch.lane_id == lane_id) | key.batch_id.in_(shared)
    keys = connection.execute(named.where(of_lane))
    return GrantRecords(jobs, batches, [(row.application, row.key) for row in keys])


def count(connection: Connection, jobs: Sequence[UUID], tally: Tally) -> None:
    """What `erase_jobs` would do to these jobs; nothing is changed."""
    table = schema.job.c
    for row in connection.execute(select(table.state, table.operation, table.doubt_at).where(table.id.in_(jobs))):
        doubtful = row.operation == "send" and row.doubt_at is not None
        _add(tally, State(row.state), cancelled_into_doubt=doubtful)


def erase_jobs(connection: Connection, jobs: Sequence[UUID], tally: Tally, *, now: Micros) -> None:
    """Cancel those of these jobs that wait, and erase the contents of those that have ended."""
    rows = lock_jobs(connection, jobs)
    waiting = {
        row.id: cancel_event(row.operation, may_have_gone_out=row.doubt_at is not None)
        for row in rows.values()
        if row.state == State.QUEUED
    }
    end_waiting(connection, waiting, now=now, rule="forgotten")
    for row in rows.values():
        _add(tally, State(row.state), cancelled_into_doubt=row.operation == "send" and row.doubt_at is not None)
    table = schema.job
    on_the_wire = table.c.id.in_(jobs) & (table.c.state == State.SENDING.value)
    connection.execute(update(table).where(on_the_wire, table.c.cancel_at.is_(None)).values(cancel_at=now))
    ended = connection.execute(select(table.c.id).where(table.c.id.in_(jobs), table.c.state.in_(_ENDED)))
    over = ended.scalars().all()
    erase_bodies(connection, over)
    delete_where(connection, schema.snapshot.c.job_id, over)
    attempt = schema.attempt
    connection.execute(update(attempt).where(attempt.c.job_id.in_(jobs)).values(error=None))
    status = schema.delivery_status
    connection.execute(update(status).where(status.c.job_id.in_(jobs)).values(detail=None))
    delete_where(connection, schema.recipient_status.c.job_id, jobs)
    _erase_message_ids(connection, jobs, now=now)
    delivery = schema.delivery
    named = delivery.c.subject.in_(jobs) & delivery.c.addresses.is_not(None)
    connection.execute(update(delivery).where(named).values(addresses=None, cipher_key=None))


def _erase_message_ids(connection: Connection, jobs: Sequence[UUID], *, now: Micros) -> None:
    """Of messages that others follow. Those that need them are looked at at once."""
    table = schema.after.c
    followers = select(table.job_id).where(table.after_id.in_(jobs))  # any: its id may be noted until it is locked
    rows = lock_rows(connection, connection.execute(followers).scalars().all())
    marks = []
    for row in rows:
        if row.message_id is None and row.written_id is None:
            continue
        is_needed = row.check_at is not None and needs_message_id(row.unless, replies=row.replies)
        check_at = now if is_needed else row.check_at
        marks.append({"job_id": row.job_id, "message_id": None, "written_id": None, "check_at": check_at})
    update_rows(connection, schema.after, marks, key="job_id")


def forgotten_jobs(connection: Connection, jobs: Sequence[UUID]) -> set[UUID]:
    """Those of these jobs that were enqueued before their grant was forgotten: nothing more is kept of their mail."""
    job, lane, event = schema.job.c, schema.lane.c, schema.event.c
    rows = connection.execute(
        select(job.id)
        .join(schema.lane, lane.id == job.lane_id)
        .join(schema.event, (event.grant_id == lane.grant_id) & (event.application == lane.application))
        .where(job.id.in_(jobs), event.kind == "forget", event.at >= job.created_at)
    )
    return set(rows.scalars())


def _add(tally: Tally, state: State, *, cancelled_into_doubt: bool) -> None:
    if state is State.SENDING:
        tally.in_flight += 1
    elif state is State.IN_DOUBT:
        tally.in_doubt += 1
    elif state is State.QUEUED:
        tally.cancelled += 1
        if cancelled_into_doubt:
            tally.in_doubt += 1
        else:
            tally.erased += 1
    else:
        tally.erased += 1


def erase_batches(connection: Connection, batches: Sequence[UUID]) -> int:
    """Erase the bodies of these batches; returns how many were left because some of their jobs have not ended."""
    table, job = schema.batch, schema.job.c
    unfinished_ones = 0
    for part in chunks(batches, STEP):
        connection.execute(select(table.c.id).where(table.c.id.in_(part)).order_by(table.c.id).with_for_update())
        unfinished = select(job.batch_id).where(job.batch_id.in_(part), job.state.not_in(_ENDED)).distinct()
        left = set(connection.execute(unfinished).scalars())
        over = [batch for batch in part if batch not in left]
        own = update(table).where(table.c.id.in_(over), table.c.body.is_not(None))
        connection.execute(own.values(body=b"", cipher_key=None))
        unfinished_ones += len(left)
    return unfinished_ones


def erase_keys(connection: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Erase the digests of these keys."""
    table = schema.key
    this = tuple_(table.c.application, table.c.key).in_(keys)
    these = select(table.c.key).where(this).order_by(table.c.application, table.c.key).with_for_update()
    connection.execute(these).all()
    connection.execute(update(table).where(this).values(digest=b"", cipher_key=None))


def erase_digests(connection: Connection, application: str, grant_id: str) -> None:
    """Erase the digests of requests that were replaced, in their events, with the reasons that follow them."""
    table = schema.event
    replaced = (table.c.grant_id == grant_id, table.c.application == application, table.c.kind == "replace")
    connection.execute(update(table).where(*replaced).values(reason=None))


def note(connection: Connection, application: str, grant_id: str, *, by: str, reason: str, now: Micros) -> None:
    """Record who forgets this grant, and why. Called first, so that an interrupted erasure has its event."""
    events.append(connection, "forget", at=now, by=by, application=application, grant_id=grant_id, reason=reason)
