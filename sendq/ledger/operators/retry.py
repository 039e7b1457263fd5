"""Retry: put dead letters, and jobs that expired, back into the queue.

Body and trail are kept; the next request has a new idempotency key, so the API treats it as a new one. A retry that
could do harm is refused, and counted by its reason (`RetryRefusal`): a mail that some recipients already have, a change
that a newer one of the same message has overtaken, a job that was cancelled, a grant that is gone. Jobs in doubt are
not dead and are not changed here.

One call is one transaction over a few hundred jobs; ``after`` is where the next one begins. Lanes are not locked: they
learn about the jobs through wake rows, as with new jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, or_, select

from sendq.clock import Micros
from sendq.ledger import events
from sendq.ledger.batches import reopen
from sendq.ledger.db import schema
from sendq.ledger.delivery_status import known_as_sent
from sendq.ledger.dispatching.parked import look_at_soon, park_again, released_followers
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import lock_jobs, store_changes
from sendq.ledger.reading.filters import EVERY_JOB, JobFilter
from sendq.ledger.reading.paging import literal
from sendq.rules.by_hand import RetryRefusal
from sendq.rules.expiry import EXPIRY
from sendq.rules.preflight import OWN_BODY
from sendq.rules.rule_ids import FAILED_LATER, NEEDS_APPROVAL
from sendq.rules.states import Event, State, move
from sendq.rules.waiting_job import UNAPPROVED, approve_by_of, waits_for_approval

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class DeadLetterSelection:
    """Which dead letters: those with these ids, or those that match the filter; its period is when they were given up.

    ``states``: of dead, expired.
    """

    jobs: Sequence[UUID] | None = None
    which: JobFilter = EVERY_JOB
    states: Collection[State] = (State.DEAD,)
    even_partly: bool = False  # also those that some recipients have, or may have
    even_overtaken: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetterPart:
    """Some dead letters, in the order of their ids. ``after``: where the next ones begin; None: no more."""

    ready: Sequence[Row[Any]]
    refused: Mapping[UUID, RetryRefusal]
    after: UUID | None


def find(
    connection: Connection, wanted: DeadLetterSelection, *, after: UUID | None, limit: int = CHUNK
) -> DeadLetterPart:
    """Look at up to ``limit`` dead letters after ``after``; nothing is changed."""
    job, lane = schema.job, schema.lane
    statement = (
        select(
            job,
            lane.c.application,
            lane.c.grant_id,
            lane.c.provider,
            (lane.c.closed_at.is_not(None) & lane.c.gone).label("gone"),
        )
        .join(lane, lane.c.id == job.c.lane_id)
        .where(or_(*(job.c.state == literal(state) for state in wanted.states)))
        .where(*wanted.which.conditions(), *wanted.which.period.of_times(job.c.finished_at))
        .order_by(job.c.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(job.c.id > after)
    if wanted.jobs is not None:
        statement = statement.where(job.c.id.in_(wanted.jobs))
    rows = connection.execute(statement).all()
    refused = _refusals(connection, rows, wanted)
    ready = [row for row in rows if row.id not in refused]
    return DeadLetterPart(ready, refused, rows[-1].id if len(rows) == limit else None)


def retry(
    connection: Connection,
    wanted: DeadLetterSelection,
    *,
    after: UUID | None,
    first_at: Micros,
    apart: Micros = 0,
    by: str,
    now: Micros,
    reason: str | None = None,
    act: UUID | None = None,
    limit: int = CHUNK,
) -> DeadLetterPart:
    """Retry up to ``limit`` dead letters after ``after``; they are the result's ``ready``.

    The first may start at ``first_at`` and each further one ``apart`` later. Attempts and deaths start at 0 again, and
    a job that would have expired by then gets `EXPIRY`. ``act``: the event of the act that this is a part of.
    """
    seen = find(connection, wanted, after=after, limit=limit)
    behind = released_followers(connection, [row.id for row in seen.ready])
    still = lock_jobs(connection, [*(row.id for row in seen.ready), *behind])
    erased = _erased(connection, seen.ready, lock=True)  # again: their grant may have been forgotten since
    there = {job_id for job_id, job in still.items() if job.state in wanted.states}
    if not wanted.even_partly:
        there -= known_as_sent(connection, there).keys()  # again: a report may have come since
    rows = [row for row in seen.ready if row.id in there - erased]
    # At least a microsecond, as for new jobs: times are distinct, so that a scan that starts at one job skips no other.
    starts = {row.id: first_at + position * max(1, apart) for position, row in enumerate(rows)}
    # First, so that a hold of the batch either is seen by `store_changes` or waits, and then finds these jobs waiting.
    reopen(connection, {row.batch_id for row in rows if row.batch_id is not None})
    store_changes(connection, [(still[row.id], _retried(row, starts[row.id])) for row in rows], now=now)
    events.append_all(connection, [_event(row, by=by, reason=reason, act=act, now=now) for row in rows])
    # What counts on an earlier send of these, which was reported as never sent, waits for the new one.
    follow = {job_id for job_id, other in behind.items() if other in starts and job_id in still}
    waiting = {id_ for id_ in follow if still[id_].state == State.QUEUED and still[id_].doubt_at is None}
    look_at_soon(connection, follow - waiting, now=now)
    parked = park_again(connection, dict.fromkeys(waiting, first_at) | starts, even_late=True)
    wakes = wakes_of([row for row in rows if row.id not in parked], starts)
    if wakes:
        append_wakes(connection, wakes, at=first_at)
    return replace(seen, ready=rows)


def states_of(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, State]:
    """The states of those of these jobs that exist."""
    table = schema.job.c
    found = connection.execute(select(table.id, table.state).where(table.id.in_(list(ids))))
    return {row.id: State(row.state) for row in found}


def _retried(row: Row[Any], start: Micros) -> dict[str, Any]:
    late = row.expires_at is not None and row.expires_at <= start
    expires_at = start + EXPIRY if late else row.expires_at
    # One that was not approved in time waits for approval again.
    waits = waits_for_approval(row)
    return {
        "id": row.id,
        "state": move(State(row.state), Event.RETRY).value,
        "next_at": UNAPPROVED if waits else start,
        "resume_at": start if waits else None,
        "approve_by": approve_by_of(start, expires_at, row.time_window) if waits else row.approve_by,
        "rule": NEEDS_APPROVAL if waits else row.rule,
        "attempts": 0,
        "deaths": 0,
        "conflicts": 0,
        "generation": row.generation + 1,
        "key_at": None,
        "doubt_at": None,
        "expires_at": expires_at,
        "finished_at": None,
    }


def _event(row: Row[Any], *, by: str, reason: str | None, act: UUID | None, now: Micros) -> dict[str, Any]:
    return events.event(
        "retry", at=now, by=by, application=row.application, provider=row.provider, grant_id=row.grant_id,
        job_id=row.id, rule=row.rule, reason=reason, act=act,
    )  # fmt: skip


# --- what is refused --------------------------------------------------------------------------------------------------


def _refusals(
    connection: Connection, rows: Sequence[Row[Any]], wanted: DeadLetterSelection
) -> dict[UUID, RetryRefusal]:
    refused: dict[UUID, RetryRefusal] = {}
    if not wanted.even_overtaken:
        refused |= dict.fromkeys(_overtaken(connection, rows), RetryRefusal.OVERTAKEN)
    if not wanted.even_partly:
        refused |= _delivered(connection, rows)
    refused |= dict.fromkeys(_erased(connection, rows), RetryRefusal.FORGOTTEN)
    for row in rows:
        if row.gone:
            refused[row.id] = RetryRefusal.GONE
        if row.cancel_at is not None:
            refused[row.id] = RetryRefusal.CANCELLED
    return refused


def _delivered(connection: Connection, rows: Sequence[Row[Any]]) -> dict[UUID, RetryRefusal]:
    """Sends that some recipients have, or may have.

    The last attempt under a key decides for that key: its answer also covers the attempts before it, and so does a
    report that what was accepted never went out. A key whose outcome is unknown stays unknown, whatever the outcome of
    a later key. A report that the mail went out counts more than any answer.
    """
    sends = [row.id for row in rows if row.operation == "send"]
    table = schema.attempt.c
    attempts = connection.execute(
        select(table.job_id, table.generation, table.sent, table.rule)
        .where(table.job_id.in_(sends))
        .order_by(table.begun_at, table.id)
    ).all()
    last = {(row.job_id, row.generation): row.sent for row in attempts}
    found = {job_id: RetryRefusal.MAYBE for (job_id, _), sent in last.items() if sent == "maybe"}
    failed = {(row.job_id, row.generation) for row in attempts if row.rule == FAILED_LATER}
    went_out = {(row.job_id, row.generation) for row in attempts if row.sent in ("partly", "yes")} - failed
    partly = {job_id for job_id, _ in went_out} | known_as_sent(connection, sends).keys()
    return found | dict.fromkeys(partly, RetryRefusal.PARTLY)


def _erased(connection: Connection, rows: Sequence[Row[Any]], *, lock: bool = False) -> set[UUID]:
    """Jobs whose body was erased (`sendq.ledger.operators.erasure`); ``lock`` keeps the bodies of the others."""
    payload, batch = schema.payload.c, schema.batch.c
    ids, batches = [row.id for row in rows], {row.batch_id for row in rows if row.batch_id is not None}
    own = select(payload.job_id).where(payload.job_id.in_(ids))
    shared = select(batch.id).where(batch.id.in_(batches), func.length(batch.body) > 0)
    if lock:
        own = own.order_by(payload.job_id).with_for_update(read=True)
        shared = shared.order_by(batch.id).with_for_update(key_share=True)  # as `reopen` does
    there = {*connection.execute(own).scalars(), *connection.execute(shared).scalars()}
    return {row.id for row in rows if (row.id if row.operation in OWN_BODY else row.batch_id) not in there}


def _overtaken(connection: Connection, rows: Sequence[Row[Any]]) -> set[UUID]:
    """Changes of messages that a newer change was, or may have been, made to. A waiting newer change does not count."""
    changes = [row for row in rows if row.object_id is not None]
    if not changes:
        return set()
    table = schema.job.c
    made = (State.SENT.value, State.SENDING.value, State.IN_DOUBT.value)
    others = connection.execute(
        select(table.lane_id, table.object_id, table.due_at, table.id).where(
            table.lane_id.in_({row.lane_id for row in changes}),
            table.object_id.in_({row.object_id for row in changes}),
            table.state.in_(made),
        )
    )
    newest: dict[tuple[UUID, str], tuple[Micros, UUID]] = {}
    for row in others:
        name = (row.lane_id, row.object_id)
        newest[name] = max(newest.get(name, (0, row.id)), (row.due_at, row.id))
    return {row.id for row in changes if newest.get((row.lane_id, row.object_id), (0, row.id)) > (row.due_at, row.id)}
