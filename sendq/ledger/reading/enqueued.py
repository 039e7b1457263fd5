"""What was enqueued, with the contents of the requests: for the tests of applications (`sendq.testing`).

It reads the whole ledger, which is small in a test. Pages of a large one are in `sendq.ledger.reading.jobs`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, or_, select, union

from sendq.bindings import batch_context, payload_context
from sendq.ledger.contents import chunk_of, files_of, pieces_of
from sendq.ledger.db import schema
from sendq.ledger.reading.rows import as_one
from sendq.messages.content import StoredPiece
from sendq.messages.frozen import read_message
from sendq.vault import Vault
from sendq.views import EnqueuedJob


def enqueued(
    connection: Connection, *, key: str | None = None, operations: Collection[str] = (), vault: Vault
) -> list[EnqueuedJob]:
    """Every job in the order of enqueue, with its request; the search of a batch counts as the batch's operation.

    Raises `Unreadable`, `Altered` or `NotEncrypted` if the vault cannot open a request.
    """
    job, payload, batch = schema.job, schema.payload, schema.batch
    operation = func.coalesce(batch.c.operation, job.c.operation)
    query = (
        select(
            job,
            operation.label("requested"),
            func.coalesce(job.c.key, batch.c.key).label("its_key"),
            payload.c.body, payload.c.content_type, payload.c.length, payload.c.cipher_key,
            batch.c.operation.label("batch_operation"), batch.c.target, batch.c.hard, batch.c.fields,
            batch.c.body.label("batch_body"),
            batch.c.content_type.label("batch_content_type"), batch.c.cipher_key.label("batch_cipher_key"),
        )
        .outerjoin(payload, payload.c.job_id == job.c.id)
        .outerjoin(batch, batch.c.id == job.c.batch_id)
        .order_by(job.c.id)
    )  # fmt: skip
    if key is not None:
        query = query.where(or_(job.c.key == key, batch.c.key == key))
    if operations:
        query = query.where(operation.in_(operations))
    lanes = _lanes(connection)
    return [_read(connection, row, lanes, vault) for row in connection.execute(query).all()]


def _lanes(connection: Connection) -> dict[UUID, tuple[str, str]]:
    """Application and grant of each lane, also of those that only their wakes name yet."""
    lane, wake = schema.lane.c, schema.wake.c
    query = union(
        select(lane.id, lane.application, lane.grant_id), select(wake.lane_id, wake.application, wake.grant_id)
    )
    return {id_: (application, grant) for id_, application, grant in connection.execute(query)}


def _read(connection: Connection, row: Row[Any], lanes: dict[UUID, tuple[str, str]], vault: Vault) -> EnqueuedJob:
    application, grant = lanes[row.lane_id]
    body, files = _request(connection, row, vault)
    return as_one(
        EnqueuedJob, row,
        operation=row.requested, application=application, grant_id=grant, key=row.its_key, body=body, attachments=files,
    )  # fmt: skip


def _request(connection: Connection, row: Row[Any], vault: Vault) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    if row.batch_body is not None:
        context = batch_context(
            row.batch_id, row.lane_id, row.batch_operation, row.target, row.hard, row.fields, row.batch_content_type
        )
        body = vault.open(row.batch_body, row.batch_cipher_key, context=context)
        return json.loads(body.strip() or b"{}"), ()  # a deletion has no fields
    if row.body is None:  # erased, or deleted after its retention period
        return None, ()
    files = [] if row.length is None else files_of(connection, [row.id]).get(row.id, [])
    context = payload_context(
        row.id, row.lane_id, row.batch_id, row.operation, row.form, row.object_id, row.content_type, row.length, files
    )
    opening = vault.open(row.body, row.cipher_key, context=context)
    pieces = [] if row.length is None else pieces_of(connection, row.id, vault=vault)
    content = partial(_content, connection, pieces, vault)
    return read_message(row.form, opening, [piece.after for piece in pieces], content)


def _content(connection: Connection, pieces: list[StoredPiece], vault: Vault) -> bytes:
    """The first content of a request."""
    found: list[bytes] = []
    while (chunk := chunk_of(connection, pieces[0], len(found), vault=vault)) is not None:
        found.append(chunk)
    return b"".join(found)
