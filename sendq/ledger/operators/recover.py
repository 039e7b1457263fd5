"""Recover: repair a ledger that has lost records, after a restore or a failover with data loss.

A send that the ledger shows as unfinished at the time of the loss may have been sent since. Every such send is put in
doubt, as if its last request were made now, so that it is searched for in its mailbox before anything else is done
with it. That includes sends that are held, not due yet or wait for another job: one may have been released or brought
forward and sent, and the record of that is lost as well. If a send is not found, it returns to its due time, to its
hold, or to its wait for the other job. Changes of
messages that had begun return to the queue, since they are safe to repeat. Jobs that were enqueued after the loss are
not changed. The last step resumes dispatching; every step may be repeated.

While the loss is younger than the keys that the API remembers, few searches are needed: the leader lets those sends go
again under the keys that they had (`repeat_by_key`). Only sends that may not begin while their keys are that young go
in doubt. Before that each worker reports to the ledger which of them it has moved on to another key
(`keep_generations`); what a worker knew that died in those moments is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, and_, func, or_, select, true

from sendq.clock import SECOND, Micros
from sendq.ledger import events
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching import lineage
from sendq.ledger.doubt import trail
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import lock_jobs, locked_from, store_changes
from sendq.ledger.operators.retry import CHUNK
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.rules.states import Event, State, move

RECOVERED = "recovered"
UNKNOWN = "the ledger lost a part of its history, in which this may have been sent"

# The last record is up to one lease renewal older than the loss, and the clocks of applications differ.
MARGIN: Micros = 60 * SECOND

_UNFINISHED = (State.QUEUED.value, State.SENDING.value, State.IN_DOUBT.value)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Jobs to repair: sends that go in doubt; changes, and listings for them, that return to the queue."""

    sends: int
    changes: int


def count(connection: Connection, *, since: Micros) -> Unfinished:
    """How many jobs `put_in_doubt` would change in total."""
    table = schema.job.c
    found = connection.execute(
        select(table.operation, func.count().label("number")).where(_concerned(since)).group_by(table.operation)
    )
    numbers = {row.operation: int(row.number) for row in found}
    sends = numbers.pop("send", 0)
    return Unfinished(sends, sum(numbers.values()))


def put_in_doubt(
    connection: Connection, *, since: Micros, now: Micros, after: UUID | None, limit: int = CHUNK
) -> tuple[Unfinished, UUID | None]:
    """Repair up to ``limit`` jobs after ``after``; returns how many, and where the next ones begin (None: no more)."""
    rows = _locked(connection, _concerned(since), after=after, limit=limit)
    sends = [row for row in rows if row.operation == "send"]
    changes = [row for row in rows if row.operation != "send"]
    store_changes(connection, [(locked_from(row), _doubted(row, now=now)) for row in sends], now=now)
    _append_trail(connection, sends, since=since, now=now)
    store_changes(connection, [(locked_from(row), _returned(row, now=now)) for row in changes], now=now)
    wakes = wakes_of([row for row in changes if row.application is not None], {row.id: now for row in changes})
    if wakes:
        append_wakes(connection, wakes, at=now)
    return Unfinished(len(sends), len(changes)), rows[-1].id if len(rows) == limit else None


def repeat_by_key(
    connection: Connection,
    *,
    since: Micros,
    now: Micros,
    after: UUID | None,
    limit: int = CHUNK,
    key_max_age: Micros = KEY_MAX_AGE,
) -> tuple[int, UUID | None]:
    """Note of up to ``limit`` waiting sends that they may have gone out after ``since``, under their present keys.

    Those that may begin while their key is younger than ``key_max_age`` stay queued: the next call is a repeat, which
    the API recognises. The others (held, or not due for longer) go in doubt now rather than when they may begin, since
    nothing can be changed in a send that may have gone out. What is in doubt is searched for as if its last request
    were made now. What is being sent is left to the worker that sends it, or to the rescuer. Returns how many, and
    where the next ones begin (None: no more).
    """
    waiting = schema.job.c.state.in_([State.QUEUED.value, State.IN_DOUBT.value])
    rows = _locked(connection, and_(_may_have_gone(since), waiting), after=after, limit=limit)
    queued = [row for row in rows if _is_repeatable(row, since=since, now=now, key_max_age=key_max_age)]
    repeated = {row.id for row in queued}
    doubts = [row for row in rows if row.id not in repeated]
    store_changes(connection, [(locked_from(row), _repeated(row, since=since, now=now)) for row in queued], now=now)
    store_changes(connection, [(locked_from(row), _doubted(row, now=now)) for row in doubts], now=now)
    _append_trail(connection, rows, since=since, now=now)
    return len(rows), rows[-1].id if len(rows) == limit else None


def keep_generations(connection: Connection, generations: Mapping[UUID, int]) -> None:
    """Move waiting sends on to the keys that a worker has given them, which the ledger may have forgotten."""
    jobs = lock_jobs(connection, list(generations))
    moved = [
        {"id": job_id, "generation": generations[job_id]}
        for job_id, job in jobs.items()
        if job.state == State.QUEUED.value and job.generation < generations[job_id]
    ]
    update_rows(connection, schema.job, moved)


def open_again(connection: Connection, *, by: str, reason: str, now: Micros) -> None:
    """Let turns be offered again, and record who did that."""
    lineage.begin_line(connection)
    events.append(connection, "recovered", at=now, by=by, reason=reason)


def _concerned(since: Micros) -> Any:
    """Sends that may have gone out, and changes that had begun."""
    table = schema.job.c
    begun = and_(table.operation != "send", table.state == State.SENDING.value, table.begun_at <= since + MARGIN)
    return or_(_may_have_gone(since), begun)


def _may_have_gone(since: Micros) -> Any:
    """Sends that were unfinished at the loss, due or not, except those already repaired."""
    table = schema.job.c
    done = and_(table.rule == RECOVERED, table.doubt_at > since)
    known = table.created_at <= since + MARGIN
    return and_(table.operation == "send", table.state.in_(_UNFINISHED), known, func.coalesce(~done, true()))


def _is_repeatable(row: Row[Any], *, since: Micros, now: Micros, key_max_age: Micros) -> bool:
    """Whether a waiting send may begin while the API still recognises a repeat by its key."""
    begins_at = max(now, int(row.next_at))
    return bool(row.state == State.QUEUED.value) and begins_at < _key_at(row, since=since) + key_max_age


def _locked(connection: Connection, which: Any, *, after: UUID | None, limit: int) -> Sequence[Row[Any]]:
    job, lane = schema.job, schema.lane
    statement = (
        select(job, lane.c.application, lane.c.grant_id, lane.c.provider)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(which)
        .order_by(job.c.id)
        .limit(limit)
        .with_for_update(of=job)
    )
    if after is not None:
        statement = statement.where(job.c.id > after)
    return connection.execute(statement).all()


def _append_trail(connection: Connection, rows: Sequence[Row[Any]], *, since: Micros, now: Micros) -> None:
    attempts = [
        # The search covers the time from then on: whenever it was due, it may have been brought forward.
        trail(row, RECOVERED, sent="maybe", begun_at=since, now=now, error=UNKNOWN)
        for row in rows
    ]
    append_attempts(connection, attempts)


def _doubted(row: Row[Any], *, now: Micros) -> dict[str, Any]:
    state = State(row.state)
    after = state if state is State.IN_DOUBT else move(state, Event.DOUBT)
    return {
        "id": row.id,
        "state": after.value,
        "rule": RECOVERED,
        # What happened to its key after the loss is unknown: assume that it was last used now.
        "key_at": now,
        "doubt_at": now,
        "refused_at": None,
        "turn": None,
        "begun_at": None,
        "look_at": None,
    }


def _repeated(row: Row[Any], *, since: Micros, now: Micros) -> dict[str, Any]:
    key_at = _key_at(row, since=since)
    return {"id": row.id, "state": row.state, "rule": RECOVERED, "key_at": key_at, "doubt_at": now}


def _key_at(row: Row[Any], *, since: Micros) -> Micros:
    """The earliest first use of its key: it may have been used right after the last renewal that is known."""
    return since if row.key_at is None else min(row.key_at, since)


def _returned(row: Row[Any], *, now: Micros) -> dict[str, Any]:
    state = move(State(row.state), Event.RETURN)
    return {"id": row.id, "state": state.value, "next_at": now, "rule": RECOVERED, "turn": None, "begun_at": None}
