"""Retention: what is kept of the past, and for how long. In steps of at most `STEP` rows, each a short transaction.

    a finished job          as long as is set for its state, with its attempts, its body (a retry needs the body; the
                            attempts show whether some recipients already have a mail) and what became of its mail;
                            longer while another job waits for it. The id of its message stays with jobs that follow
                            it, as long as those: a retry of one needs it
    snapshots               as long as their jobs
    bodies of jobs          shorter: they are not sent any more. Those of dead letters stay as long as the job
    a batch                 until its last job is deleted (its changes are added up by `sendq.ledger.batches`); one
                            without jobs as long as a job that was sent
    a key                   longer than its job: a repeat of an old call must not become a new mail
    events, notifications   each for its own time

Unfinished jobs are never touched. Each step walks along an index, and skips locked rows: a dead letter that an operator
is retrying at that moment is kept. ``before`` is always the time before which rows are deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, delete, exists, literal_column, select, tuple_, update

from sendq.clock import SECOND, Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, insert_new
from sendq.rules.after import Stage
from sendq.rules.states import FINAL, State
from sendq.rules.tags import each_tag

STEP = 500

# Jobs in these states seldom need their bodies again: only one that expired can be retried, and not without its body.
BODILESS = tuple(sorted(FINAL - {State.DEAD}))

# `finished_at` is older than its commit, clocks of workers differ, and a batch is found to be over some seconds after
# its last job: the walk along it stays this far behind.
SETTLED: Micros = 60 * SECOND


def drop_jobs(connection: Connection, state: State, *, before: Micros, now: Micros) -> int:
    """Delete jobs that ended in ``state`` before ``before``, with all dependent rows; returns how many."""
    assert state in FINAL
    job, after = schema.job, schema.after.c
    followed = exists().where(after.after_id == job.c.id, after.stage != Stage.DONE.value)
    query = (
        select(job.c.id, job.c.batch_id, job.c.tags)
        .where(_in(state), job.c.finished_at < min(before, now - SETTLED), ~followed)
        .order_by(job.c.finished_at)
        .limit(STEP)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(query).all()
    ids = [row.id for row in rows]
    erase_bodies(connection, ids)
    _drop_tags(connection, [(tag, row.id) for row in rows for tag in each_tag(row.tags)])
    status, recipient = schema.delivery_status.c.job_id, schema.recipient_status.c.job_id
    for column in (status, recipient, after.job_id, schema.attempt.c.job_id, job.c.id):
        delete_where(connection, column, ids)
    if batches := {row.batch_id for row in rows if row.batch_id is not None}:
        delete_where(connection, schema.snapshot.c.job_id, ids)
        _drop_empty_batches(connection, batches)
    return len(rows)


def _drop_tags(connection: Connection, names: Sequence[tuple[str, UUID]]) -> None:
    table = schema.job_tag
    for some in chunks(names):
        connection.execute(delete(table).where(tuple_(table.c.tag, table.c.job_id).in_(some)))


def drop_bodies(connection: Connection, state: State, *, before: Micros, now: Micros) -> int:
    """Delete the bodies of jobs that ended in ``state`` before ``before``; returns how many jobs were looked at.

    Its position is kept in the ledger, so that the next leader continues from there.
    """
    assert state in BODILESS
    job, name = schema.job, f"bodies of {state.value}"
    at = _cursor(connection, name)
    walk = select(job.c.finished_at).where(_in(state), job.c.finished_at >= at).order_by(job.c.finished_at)
    times = connection.execute(walk.where(job.c.finished_at < min(before, now - SETTLED)).limit(STEP)).scalars().all()
    if not times:
        return 0
    # All jobs of the last time too, which may be more than a step: a commit writes many jobs with one time. Locked: one
    # that an operator is retrying at this moment keeps its body.
    ended = select(job.c.id).where(_in(state), job.c.finished_at.between(times[0], times[-1]))
    ended = ended.order_by(job.c.id).with_for_update()
    ids = connection.execute(ended).scalars().all()
    erase_bodies(connection, ids)
    _set_cursor(connection, name, times[-1] + 1)
    return len(ids)


def erase_bodies(connection: Connection, jobs: Sequence[UUID]) -> None:
    """Delete what these jobs would send. A batch's body is deleted with the batch, and files that no job needs any more
    by `sendq.ledger.contents.drop_unused_contents`.
    """
    for column in (schema.payload.c.job_id, schema.piece.c.job_id):
        delete_where(connection, column, jobs)


def drop_keys(connection: Connection, *, before: Micros) -> int:
    """Delete keys that were first used before ``before`` and whose job or batch is gone; returns how many."""
    table = schema.key
    job = exists().where(schema.job.c.id == table.c.job_id)
    batch = exists().where(schema.batch.c.id == table.c.batch_id)
    old = table.c.created_at < before
    query = select(table.c.application, table.c.key).where(old, ~job, ~batch).order_by(table.c.created_at).limit(STEP)
    names = [tuple(row) for row in connection.execute(query.with_for_update(skip_locked=True))]
    if names:
        connection.execute(delete(table).where(tuple_(table.c.application, table.c.key).in_(names)))
    return len(names)


def drop_events(connection: Connection, *, before: Micros) -> int:
    """Delete events from before ``before``; returns how many."""
    return _drop_old(connection, schema.event.c.id, schema.event.c.at, before)


def drop_deliveries(connection: Connection, *, before: Micros) -> int:
    """Delete outcomes that were delivered or given up before ``before``; returns how many."""
    return _drop_old(connection, schema.delivery.c.id, schema.delivery.c.done_at, before)


def drop_webhooks(connection: Connection, *, before: Micros) -> int:
    """Delete the records of notifications processed before ``before``; returns how many."""
    return _drop_old(connection, schema.webhook.c.id, schema.webhook.c.at, before)


def _in(state: State) -> ColumnElement[bool]:
    return schema.job.c.state == literal_column(f"'{state.value}'")


def _drop_old(connection: Connection, identity: Column[Any], at: Column[Any], before: Micros) -> int:
    old = select(identity).where(at < before).order_by(at).limit(STEP).with_for_update(skip_locked=True)
    ids = connection.execute(old).scalars().all()
    delete_where(connection, identity, ids)
    return len(ids)


def delete_where(connection: Connection, column: Column[Any], values: Sequence[Any]) -> None:
    """Delete the rows with one of these values."""
    if values:
        connection.execute(delete(column.table).where(column.in_(values)))


def drop_empty_batches(connection: Connection, *, before: Micros, now: Micros) -> int:
    """Delete batches that ended before ``before`` and have no jobs; returns how many were looked at.

    Such a batch never had a job, or lost its last one before it ended; others are deleted by `drop_jobs`. So each batch
    is looked at once, along its ``finished_at``: a batch that is reopened gets a later one.
    """
    table, name = schema.batch.c, "batches without jobs"
    at = _cursor(connection, name)
    walk = select(table.finished_at).where(table.finished_at >= at).order_by(table.finished_at)
    times = connection.execute(walk.where(table.finished_at < min(before, now - SETTLED)).limit(STEP)).scalars().all()
    if not times:
        return 0
    ended = select(table.id).where(table.finished_at.between(times[0], times[-1]))
    ids = connection.execute(ended).scalars().all()
    _drop_empty_batches(connection, set(ids))
    _set_cursor(connection, name, times[-1] + 1)
    return len(ids)


def _drop_empty_batches(connection: Connection, ids: set[UUID]) -> None:
    """Delete those of these batches that are over and have no jobs any more."""
    table = schema.batch.c
    left = exists().where(schema.job.c.batch_id == table.id)
    over = select(table.id).where(table.id.in_(ids), table.finished_at.is_not(None), ~left)
    empty = connection.execute(over).scalars().all()
    for column in (schema.batch_change.c.batch_id, schema.found.c.batch_id):
        delete_where(connection, column, empty)
    delete_where(connection, table.id, empty)


def _cursor(connection: Connection, name: str) -> int:
    """The position of the walk of that name."""
    at = connection.execute(select(schema.prune_cursor.c.at).where(schema.prune_cursor.c.name == name)).scalar()
    if at is None:
        insert_new(connection, schema.prune_cursor, [{"name": name, "at": 0}], returning="name")
    return at or 0


def _set_cursor(connection: Connection, name: str, at: int) -> None:
    connection.execute(update(schema.prune_cursor).where(schema.prune_cursor.c.name == name).values(at=at))
