"""A job as it was read: for its turn, or locked for a change.

Named tuples, because thousands are made a second and they cost a quarter of a frozen dataclass.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sendq.bindings import File
from sendq.clock import Micros


class ClaimedJob(NamedTuple):
    """A job of a turn: what it asks for, how far it has come, and the body of its request (decrypted)."""

    id: UUID
    lane_id: UUID
    batch_id: UUID | None
    operation: str
    form: str | None
    object_id: str | None
    priority: int
    due_at: Micros
    next_at: Micros
    expires_at: Micros | None
    attempts: int
    deaths: int
    conflicts: int
    generation: int
    content_version: int  # of its message: how often that was replaced
    key_at: Micros | None
    doubt_at: Micros | None
    rule: str | None
    tags: str | None  # in the form of `sendq.rules.tags.stored_tags`
    # From its payload or, where that is shared, from its batch:
    body: bytes
    content_type: str
    cipher_key: str | None = None
    own_body: bool = True
    length: int | None = None  # of a request with files; the body is then its first part
    target: str | None = None
    hard: bool | None = None
    batch_cancel_at: Micros | None = None
    sender_id: UUID | None = None  # the job that sent the message whose metadata this one replaces, if one of ours did
    # What proves that it is as it was enqueued (`sendq.bindings`):
    fields: int | None = None  # of its batch
    seal: bytes | None = None
    seal_key: str | None = None
    files: tuple[File, ...] | None = None  # those that its request is bound to; None: it is not sealed
    traceparent: str | None = None  # of the span that enqueued it
    time_window: str | None = None  # when it may begin, in the form of `sendq.rules.windows`
    undoable: bool | None = None  # its batch keeps what its messages were before
    snapshot: tuple[bytes, bytes | None] | None = None  # of its message: what it was before, and what a change left


class LockedJob(NamedTuple):
    """A job whose row is locked. What an outcome can change comes first (`JOB_CHANGES`)."""

    id: UUID
    state: str
    next_at: Micros
    attempts: int
    deaths: int
    conflicts: int
    generation: int
    key_at: Micros | None
    doubt_at: Micros | None
    refused_at: Micros | None
    turn: int | None
    begun_at: Micros | None
    finished_at: Micros | None
    rule: str | None
    message_id: str | None
    cancel_at: Micros | None
    batch_id: UUID | None
    priority: int
    lane_id: UUID
    operation: str
    on_outcome: str | None


# What can change in a job after it was enqueued.
JOB_CHANGES = LockedJob._fields[: LockedJob._fields.index("cancel_at") + 1]
