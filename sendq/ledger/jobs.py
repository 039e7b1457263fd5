"""Jobs: locking them, writing their changes, and ending those that wait.

Every state change of a job that affects its batch or has an outcome to deliver goes through `store_changes`: it writes
the job, the appended count of its batch, and the deliveries of its outcome, in one transaction. A job of a held batch
that returns to the queue is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, Update, exists, func, select, update

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.ids import number
from sendq.ledger import outcomes
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import Then, insert_rows, one_of_given, update_rows, update_rows_then
from sendq.rules.rule_ids import RULE_OF
from sendq.rules.states import FINAL, MOVES, Event, State
from sendq.rules.waiting_job import HELD

COUNTED = FINAL | {State.IN_DOUBT}

_LOCKED = [schema.job.c[name] for name in LockedJob._fields]


def lock_jobs(connection: Connection, ids: Sequence[UUID], *, skip_locked: bool = False) -> dict[UUID, LockedJob]:
    """Lock jobs, in the order of their ids, and read them as they are now."""
    if not ids:
        return {}
    statement = _lock_of(connection.dialect.name, skip_locked)
    rows = constant.rows(connection, statement, {"ids": sorted(set(ids), key=number)})
    return {row[0]: LockedJob._make(row) for row in rows}


@lru_cache
def _lock_of(dialect: str, skip_locked: bool) -> Select[Any]:
    table = schema.job
    query = select(*_LOCKED).where(one_of_given(dialect, table.c.id)).order_by(table.c.id)
    return query.with_for_update(skip_locked=skip_locked)


_IN_ORDER = (
    select(schema.job.c.id)
    .where(one_of_given("postgresql", schema.job.c.id))
    .order_by(schema.job.c.id)
    .with_for_update()
)


def lock_in_order(connection: Connection, ids: Sequence[UUID]) -> None:
    """Lock jobs that one or several later statements change: an UPDATE of many rows locks them in any order."""
    if len(ids) > 1 and connection.dialect.name == "postgresql":
        constant.rows(connection, _IN_ORDER, {"ids": sorted(set(ids), key=number)})


def lock_due(connection: Connection, ids: Sequence[UUID], *, now: Micros) -> set[UUID]:
    """Lock jobs, in the order of their ids; returns those that still wait and are due, to be put off.

    One that has been held or rescheduled since it was read must not be brought back by that.
    """
    locked = lock_jobs(connection, ids)
    return {job_id for job_id, job in locked.items() if job.state == State.QUEUED and job.next_at <= now}


def changed_since(connection: Connection, loaded: Mapping[UUID, int]) -> set[UUID]:
    """Those of these (locked) jobs that no longer have the content version with which they were loaded."""
    rows = constant.rows(connection, _versions_of(connection.dialect.name), {"ids": sorted(loaded, key=number)})
    return {job_id for job_id, version in rows if version != loaded[job_id]}


def unchanged(
    connection: Connection, locked: Mapping[UUID, LockedJob], loaded: Mapping[UUID, tuple[int, int]], *, now: Micros
) -> set[UUID]:
    """Those of these (locked) jobs that may still begin as they were loaded: same generation and content."""
    due = {
        job_id: content
        for job_id, (generation, content) in loaded.items()
        if (job := locked.get(job_id)) is not None
        and job.state == State.QUEUED
        and job.next_at <= now
        and job.generation == generation
    }
    return due.keys() - changed_since(connection, due) if due else set()


@lru_cache
def _versions_of(dialect: str) -> Select[Any]:
    table = schema.job.c
    return select(table.id, table.content_version).where(one_of_given(dialect, table.id))


def locked_from(row: Row[Any]) -> LockedJob:
    """A job that the caller's own query locked and read with all columns."""
    return LockedJob._make(getattr(row, name) for name in LockedJob._fields)


def end_waiting(
    connection: Connection, events: Mapping[UUID, Event], *, now: Micros, rule: str | None = None
) -> set[UUID]:
    """Let waiting jobs expire, be cancelled, be given up or go in doubt; returns those. Other jobs are not changed.

    ``rule`` is what decided; by default the event's own (`sendq.rules.rule_ids`).
    """
    jobs = lock_jobs(connection, list(events))
    changed: list[tuple[LockedJob, Mapping[str, Any]]] = []
    for job_id, job in jobs.items():
        event = events[job_id]
        if job.state != State.QUEUED:
            continue
        state = MOVES[State.QUEUED][event]
        finished_at = now if state in FINAL else None
        after = {"id": job_id, "state": state.value, "finished_at": finished_at, "rule": rule or RULE_OF[event]}
        changed.append((job, after))
    store_changes(connection, changed, now=now)
    return {job.id for job, _ in changed}


def store_changes(
    connection: Connection,
    changed: Sequence[tuple[LockedJob, Mapping[str, Any]]],
    *,
    now: Micros,
    counts: Counter[tuple[UUID, str]] | None = None,
    going_on: Collection[UUID] = (),
    then: tuple[Then, Mapping[str, Any]] | None = None,
) -> Sequence[tuple[Any, ...]]:
    """Write changes of jobs: each job as it was (locked), and its changed columns, which are the same for all.

    ``counts``: other changes of batches. ``going_on``: listings that continue with their next page. ``then``: a query
    to execute in the statement that writes the jobs, with its parameters; returns its rows, none if no job is written.
    """
    rows = [after for _, after in changed]
    found: Sequence[tuple[Any, ...]] = ()
    if then is not None and rows:
        found = update_rows_then(connection, schema.job, rows, *then)
    else:
        update_rows(connection, schema.job, rows)
    counts = Counter() if counts is None else counts
    for before, after in changed:
        if before.batch_id is not None:
            _count(counts, before.batch_id, before, None if before.id in going_on else after["state"])
    append_batch_changes(connection, counts, now=now)
    returned = [
        before.id
        for before, after in changed
        if before.batch_id is not None and after["state"] == State.QUEUED and before.state != State.QUEUED
    ]
    if returned:
        hold_with_batches(connection, returned)
    to_deliver = [before.id for before, after in changed if before.on_outcome and before.state != after["state"]]
    if to_deliver:
        outcomes.append_jobs(connection, to_deliver, now=now)
    return found


def hold_with_batches(connection: Connection, ids: Sequence[UUID]) -> None:
    """Hold those of these waiting jobs, which are locked or new, whose batch is held.

    A separate statement, after their locks: a hold that it does not see yet waits for these locks, and then finds
    them waiting.
    """
    constant.rows(connection, _hold_of(connection.dialect.name), {"ids": list(ids)})


@lru_cache
def _hold_of(dialect: str) -> Update:
    job, batch = schema.job, schema.batch.c
    is_held = exists().where(batch.id == job.c.batch_id, batch.held_at.is_not(None))
    these = (one_of_given(dialect, job.c.id), job.c.state == State.QUEUED.value, job.c.next_at != HELD, is_held)
    # One that waits for approval has a `resume_at`.
    return update(job).where(*these).values(resume_at=func.coalesce(job.c.resume_at, job.c.next_at), next_at=HELD)


def append_batch_changes(connection: Connection, counts: Mapping[tuple[UUID, str], int], *, now: Micros) -> None:
    """Append changes of batches: progress is the sum of these rows, so no row is hot."""
    rows = [
        {"batch_id": batch_id, "state": str(state), "count": count, "at": now}
        for (batch_id, state), count in counts.items()
        if count
    ]
    insert_rows(connection, schema.batch_change, rows)


def _count(counts: Counter[tuple[UUID, str]], batch_id: UUID, job: LockedJob, after: str | None) -> None:
    """Count a job's move from the state of its row to ``after``; None: its listing continues with the next page.

    Only final states are counted (and doubt, which may be one): the waiting jobs are the total less these. Listings are
    counted separately, because they are not part of a batch's total.
    """
    listing = "list:" if job.operation == "list" else ""
    if job.state in COUNTED:
        counts[batch_id, listing + State(job.state)] -= 1
    if after in COUNTED:
        counts[batch_id, listing + State(after)] += 1
