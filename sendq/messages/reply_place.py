"""The place of a message's id in the bytes of a reply that is stored before that message was sent.

The bytes of a request are frozen when it is enqueued, except in a reply to a message of another job: its id is not
known yet. A *place* stands for it, and is replaced before the first request. After that the bytes are changed only if
that message turns out never to have gone out, and is sent again: then with its new id, and under another key.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sendq.messages.forms import encoded

# At least as long as an id usually is, so that a request whose form was chosen by its size still fits with its id.
_LENGTH: Final = 256

_BEGINNING: Final = b'"reply_to_message_id":"sendq-reply-to-'


def place_of_id(job_id: UUID) -> str:
    """What stands in the bytes of this job's request in place of the id of the message that it replies to."""
    return f"sendq-reply-to-{job_id}-".ljust(_LENGTH, "0")


def has_place(body: bytes, job_id: UUID) -> bool:
    """Whether these bytes have the place of an id, once."""
    return body.count(_field(place_of_id(job_id))) == 1


def is_incomplete(body: bytes, job_id: UUID) -> bool:
    """Whether this request still has the place: it must not be made. Cheap for all others."""
    return _BEGINNING in body and has_place(body, job_id)


def with_id(body: bytes, job_id: UUID, message_id: str) -> bytes:
    """The bytes of this job's request with the id in its place."""
    return body.replace(_field(place_of_id(job_id)), _field(message_id), 1)


def has_id(body: bytes, message_id: str) -> bool:
    """Whether these bytes have this id of a message that they reply to, once."""
    return body.count(_field(message_id)) == 1


def with_other_id(body: bytes, old: str, new: str) -> bytes:
    """The bytes of a reply that is to go to the second send of a message, whose first was known by another id."""
    return body.replace(_field(old), _field(new), 1)


def _field(value: str) -> bytes:
    return b'"reply_to_message_id":' + encoded(value)
