"""The exact bytes of a request, made once and stored with the job.

Nylas compares a repeated request with the first one that had the same idempotency key, and does not document how (by
bytes or by meaning). So a repeat sends the stored bytes again. Equal input makes equal bytes.

Each message carries its job's id twice, as a metadata pair and as the header ``X-Sendq-Job`` (`sendq.messages.mark`).
The *digest* of a job leaves both out. It identifies what the caller asked for, and distinguishes "the same key with the
same content" from "the same key by mistake". Digests are compared months later, by newer code: their input changes only
together with `_DIGEST_VERSION`.

The input has been checked before (`sendq.enqueueing.validation`): a lone surrogate would raise ``UnicodeEncodeError``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sendq.messages.addresses import wire_form
from sendq.messages.fields import Recipient
from sendq.messages.forms import encoded
from sendq.messages.mark import JOB_HEADER
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.unsubscribe import as_digested

_DIGEST_VERSION = 1


def freeze_send(message: Message, *, job_id: str, metadata_key: str = "key1", body: bool = True) -> bytes:
    """The JSON of a send request: compact, in UTF-8, with the fields that are set and the job's mark.

    Attachments are not included: their place depends on the form of the request (`sendq.messages.wire_format`), and so
    does, without ``body``, that of the message's text.
    """
    payload = _send_payload(message)
    if not body:
        payload.pop("body", None)
    payload["metadata"] = {**payload.get("metadata", {}), metadata_key: job_id}
    payload["custom_headers"] = [*payload.get("custom_headers", ()), {"name": JOB_HEADER, "value": job_id}]
    return encoded(payload)


def freeze_changes(
    *,
    unread: bool | None = None,
    starred: bool | None = None,
    folders: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The body of a modification: compact JSON in UTF-8, with the fields that are not None."""
    changes: dict[str, Any] = {
        "unread": unread,
        "starred": starred,
        "folders": None if folders is None else list(folders),
        "metadata": None if metadata is None else dict(sorted(metadata.items())),
    }
    return encoded({field: value for field, value in changes.items() if value is not None})


def send_digest(
    message: Message,
    *,
    application: str,
    grant_id: str,
    due_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> bytes:
    """The digest of a send, as `content_digest`. Pass the times only if the caller set them.

    Attachments count by their digests, regardless of the form of the request.
    """
    payload = _send_payload(message)
    if message.unsubscribe is not None:
        payload["unsubscribe"] = as_digested(message.unsubscribe)
    if message.attachments:
        # The content type that the caller set: a guessed one may change with Python's table.
        payload["attachments"] = [
            one.described() | {"content_type": one.content_type, "digest": one.content.measure().digest.hex()}
            for one in message.attachments
        ]
    return content_digest("send", application, grant_id, encoded(payload), due_at=due_at, expires_at=expires_at)


def mime_digest(
    message: MimeMessage,
    *,
    application: str,
    grant_id: str,
    due_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> bytes:
    """The digest of the send of a finished message, like `send_digest`."""
    payload = b"mime " + message.content.measure().digest
    return content_digest("send", application, grant_id, payload, due_at=due_at, expires_at=expires_at)


def bulk_digest(
    operation: str,
    ids: Sequence[str],
    request: bytes,
    *,
    application: str,
    grant_id: str,
    due_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> bytes:
    """The digest of a bulk call; ``request`` is the request for each object. The order of ids does not matter.

    ``operation`` contains everything else that distinguishes calls (`sendq.enqueueing.batches`).
    """
    digest = _digest_of(operation, application, grant_id, due_at=due_at, expires_at=expires_at)
    digest.update(b"[")
    ordered = sorted(ids)
    # In parts: joining all ids at once would need as much memory again as the ids themselves.
    for first in range(0, len(ordered), 1_000):
        digest.update(b"," if first else b"")
        digest.update(encoded(ordered[first : first + 1_000])[1:-1])
    digest.update(b"]\n" + request)
    return digest.digest()


def content_digest(
    operation: str,
    application: str,
    grant_id: str,
    payload: bytes,
    *,
    due_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> bytes:
    """32 bytes (SHA-256) that identify the content of a job.

    ``payload`` is the request's body without the mark. The times are aware. They count only if the caller set them: a
    default depends on the clock, so that no repeat would be equal. Equal instants in different zones are equal.
    """
    digest = _digest_of(operation, application, grant_id, due_at=due_at, expires_at=expires_at)
    digest.update(payload)
    return digest.digest()


def _digest_of(
    operation: str, application: str, grant_id: str, *, due_at: datetime | None, expires_at: datetime | None
) -> hashlib._Hash:
    times = [time and time.astimezone(UTC).isoformat(timespec="microseconds") for time in (due_at, expires_at)]
    head = encoded([_DIGEST_VERSION, operation, application, grant_id, *times])
    # JSON escapes line feeds, so the first one ends the head.
    return hashlib.sha256(head + b"\n")


def _send_payload(message: Message) -> dict[str, Any]:
    """The fields that are set, by their names in the API, without the mark."""
    payload: dict[str, Any] = {"to": _people(message.to)}
    if message.cc:
        payload["cc"] = _people(message.cc)
    if message.bcc:
        payload["bcc"] = _people(message.bcc)
    if message.reply_to:
        payload["reply_to"] = _people(message.reply_to)
    if message.from_:
        payload["from"] = _people(message.from_)
    for field in ("subject", "body", "is_plaintext", "reply_to_message_id", "signature_id"):
        value = getattr(message, field)
        if value is not None:
            payload[field] = value
    if message.custom_headers:
        payload["custom_headers"] = [{"name": header.name, "value": header.value} for header in message.custom_headers]
    if message.metadata:
        payload["metadata"] = dict(sorted(message.metadata.items()))
    if message.tracking_options is not None:
        payload["tracking_options"] = message.tracking_options.model_dump(exclude_none=True)
    if message.template is not None:
        payload["template"] = message.template.model_dump(exclude_none=True)
        if message.template.variables:
            payload["template"]["variables"] = dict(sorted(message.template.variables.items()))
    return payload


def _people(people: tuple[Recipient, ...]) -> list[dict[str, str]]:
    return [_person(wire_form(person.email) or person.email, person.name) for person in people]


def _person(email: str, name: str | None) -> dict[str, str]:
    return {"email": email, "name": name} if name else {"email": email}
