"""What each encrypted row is bound to: everything that decides where a request goes and what it contains. Pure.

    payload   its job: lane, batch, operation, form, object, content type, length; its files, in order, by digest
    batch     its lane, operation, target, fields and content type; every job of it is checked against them
    tag       of a job without a body of its own, and of a message that a walk found: batch, lane, operation, object
    snapshot  the batch that changes the message, its lane, the message, and whether it is from before or after
    piece     its job and position, and the digest of the file before it
    chunk     the digest and size of its file, and its position: shared by all jobs that have this file
    secret    its name
    key       its application and name, and the job or batch that it stands for

A lane's id is derived from application and grant (`sendq.ids`), so binding the id binds both. States, times, counts and
the generation of the idempotency key are not bound: they change without the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from json import JSONEncoder
from typing import NamedTuple
from uuid import UUID

# ASCII, so that the bytes depend on no version of Unicode. They are as durable as what they are bound to.
_encode = JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")).encode


class File(NamedTuple):
    """A content of a request, as its job is bound to it: SHA-256 and bytes."""

    digest: bytes
    size: int


def payload_context(
    job_id: UUID,
    lane_id: UUID,
    batch_id: UUID | None,
    operation: str,
    form: str | None,
    object_id: str | None,
    content_type: str,
    length: int | None,
    files: Sequence[File],
) -> bytes:
    """The context of a job's own body."""
    batch = None if batch_id is None else batch_id.hex
    listed = [(file.digest.hex(), file.size) for file in files]
    return context_of(
        "payload", job_id.hex, lane_id.hex, batch, operation, form, object_id, content_type, length, listed
    )


def batch_context(
    batch_id: UUID, lane_id: UUID, operation: str, target: str, hard: bool, fields: int, content_type: str
) -> bytes:
    """The context of the body that all jobs of a batch share; ``operation`` is that of the jobs."""
    return context_of("batch", batch_id.hex, lane_id.hex, _bound(operation), target, bool(hard), fields, content_type)


def tag_context(batch_id: UUID, lane_id: UUID, operation: str, object_id: str | None) -> bytes:
    """The context of a job's tag: that this object is one of those that the batch is about."""
    return context_of("job", batch_id.hex, lane_id.hex, _bound(operation), object_id)


def _bound(operation: str) -> str:
    """The operation that a job is bound to: one that reads its message first becomes a modification."""
    return "modify" if operation == "read" else operation


def snapshot_context(batch_id: UUID, lane_id: UUID, object_id: str, when: str) -> bytes:
    """The context of what a message was ``before`` or ``after`` the change by a batch."""
    return context_of("snapshot", batch_id.hex, lane_id.hex, object_id, when)


def piece_context(job_id: UUID, position: int, digest: bytes) -> bytes:
    """The context of the bytes after a file of a request."""
    return context_of("piece", job_id.hex, position, digest.hex())


def chunk_context(file: File, position: int) -> bytes:
    """The context of a chunk of a file."""
    return context_of("chunk", file.digest.hex(), file.size, position)


def key_context(application: str, key: str, target: UUID) -> bytes:
    """The context of a key's digest; ``target``: the job or batch that it stands for."""
    return context_of("key", application, key, target.hex)


def secret_context(name: str) -> bytes:
    """The context of a key that the ledger made for itself."""
    return context_of("secret", name)


def delivery_context(delivery_id: UUID) -> bytes:
    """The context of the addresses that a delivery names."""
    return context_of("delivery", delivery_id.hex)


def context_of(kind: str, *fields: str | int | bool | Sequence[Sequence[str | int]] | None) -> bytes:
    """The kind of a row, and the fields that it is bound to, as bytes that no other fields have."""
    return _encode([kind, *fields]).encode()
