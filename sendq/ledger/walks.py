"""Walks: how a batch finds its messages before the first of them is changed.

    page ─▶ page ─▶ … ─▶ last page ─▶ the leader sums ─▶ jobs, a thousand at a time

A page is a job of the batch (operation ``list``): it has a turn, a pace and a trail like any other, and the same
policy. When it is accepted, one transaction writes the outcome, the ids that it returned and the job of the next page,
so that the death of a worker neither loses a page nor counts one twice. The ids stay in ``found`` until the walk is
over, because changes to messages that match the query would shift the pages that are not listed yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, select, update

from sendq.clock import Micros
from sendq.facts.outcomes import Page
from sendq.ids import new_id
from sendq.ledger import sealing, snapshots
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import CHUNK, insert_new, insert_rows
from sendq.ledger.enqueue import append_wakes, tag_rows
from sendq.rules.waiting_job import HELD, approve_by_of, unapproved
from sendq.vault import Vault

_WAKES = ("high_at", "normal_at", "low_at")


def lock_batches(connection: Connection, ids: Collection[UUID]) -> None:
    """Lock the batches of several pages, in the order of their ids, before `record_page`."""
    table = schema.batch.c
    if len(ids) > 1:
        connection.execute(select(table.id).where(table.id.in_(ids)).order_by(table.id).with_for_update())


def record_page(
    connection: Connection,
    batch_id: UUID,
    lane_id: UUID,
    page: Page,
    counts: Counter[tuple[UUID, str]],
    *,
    now: Micros,
    vault: Vault,
) -> Mapping[str, Any] | None:
    """Store what a page found and create the job of the next one, if there is one; returns that job's row.

    Call it in the transaction that ends the page's own job, with the lane locked. The walk of a batch that has been
    cancelled meanwhile stops. Batch and lane are those that the call was made for, whatever the rows say by now: what
    is stored here is bound to them.
    """
    table = schema.batch
    this = select(table).where(table.c.id == batch_id, table.c.lane_id == lane_id)
    batch = connection.execute(this.with_for_update()).first()
    if batch is None:
        return None  # pruned or erased while the call was on the wire
    rows: list[dict[str, Any]] = [
        {"batch_id": batch_id, "object_id": found} | sealing.tag(batch_id, lane_id, batch.operation, found, vault)
        for found in page.found
    ]
    for row, state in zip(rows, page.states, strict=False):
        row |= snapshots.sealed(batch_id, lane_id, row["object_id"], "before", state, vault)
    counts[batch_id, "found"] += len(insert_new(connection, schema.found, rows, returning="object_id"))
    counts[batch_id, "page"] += 1
    if page.following is None or batch.cancel_at is not None:
        return None
    job = _job(batch, "list", None, batch.due_at, now=now)
    insert_rows(connection, schema.job, [job])
    insert_rows(connection, schema.job_tag, tag_rows([job]))
    payload = {"job_id": job["id"], "body": page.following, "content_type": page.content_type}
    insert_rows(connection, schema.payload, [sealing.payload_row(payload, job, (), vault)])
    return job


def walked(connection: Connection, *, limit: int) -> Sequence[UUID]:
    """Batches whose walk is over and whose jobs are being made."""
    table = schema.batch.c
    return connection.execute(select(table.id).where(table.making).order_by(table.id).limit(limit)).scalars().all()


def make_jobs(connection: Connection, batch_id: UUID, *, now: Micros, limit: int = CHUNK) -> int:
    """Turn up to ``limit`` of the found messages into jobs; returns how many. Fewer than ``limit``: none are left."""
    table, found, lanes = schema.batch, schema.found, schema.lane
    batch = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).first()
    if batch is None or not batch.making:
        return 0
    some = select(found).where(found.c.batch_id == batch_id)
    messages = connection.execute(some.order_by(found.c.object_id).limit(limit)).all()
    ids = [row.object_id for row in messages]
    connection.execute(delete(found).where(found.c.batch_id == batch_id, found.c.object_id.in_(ids)))
    # They take the batch's place in the queue, a microsecond apart, like those of any other call.
    rows = [
        _job(batch, batch.operation, one.object_id, batch.due_at + place, now=now)
        | {"seal": one.seal, "seal_key": one.seal_key}
        | _approval(batch, batch.due_at + place, now=now)
        for place, one in enumerate(messages)
    ]
    insert_rows(connection, schema.job, rows)
    insert_rows(connection, schema.job_tag, tag_rows(rows))
    kept = [
        {"job_id": row["id"], "before": one.before, "before_key": one.before_key}
        for row, one in zip(rows, messages, strict=True)
        if one.before is not None
    ]
    insert_rows(connection, schema.snapshot, kept)
    if len(ids) < limit:
        connection.execute(update(table).where(table.c.id == batch_id).values(making=False))
    if ids:
        lane = connection.execute(select(lanes).where(lanes.c.id == batch.lane_id)).one()
        wake = {"lane_id": lane.id, "application": lane.application, "grant_id": lane.grant_id, "provider": None}
        times = dict.fromkeys(_WAKES) | {_WAKES[batch.priority]: batch.due_at}
        append_wakes(connection, [wake | times], at=batch.due_at)
    return len(ids)


def _approval(batch: Row[Any], start: Micros, *, now: Micros) -> dict[str, Any]:
    """What differs in a job that waits for approval. Its time for that begins once it is there to be approved."""
    if not batch.needs_approval:
        return {}
    approve_by = approve_by_of(max(start, now), batch.expires_at, batch.time_window)
    columns = unapproved(start, batch.expires_at, batch.time_window) | {"approve_by": approve_by}
    return columns if batch.held_at is None else {**columns, "next_at": HELD}


def _job(batch: Row[Any], operation: str, object_id: str | None, next_at: Micros, *, now: Micros) -> dict[str, Any]:
    """A job in its batch's place in the queue."""
    return {
        "id": new_id(),
        "lane_id": batch.lane_id,
        "batch_id": batch.id,
        "operation": operation,
        "form": None,
        "object_id": object_id,
        "priority": batch.priority,
        "state": "queued",
        "due_at": batch.due_at,
        "next_at": next_at if batch.held_at is None else HELD,
        "resume_at": None if batch.held_at is None else next_at,
        "expires_at": batch.expires_at,
        "created_at": now,
        "on_outcome": None,
        "key": None,
        "tags": batch.tags,
        "time_window": batch.time_window,
    }
