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
from functools import lru_cache
from typing import Any, NamedTuple

from sendq.messages.addresses import wire_form
from sendq.messages.fields import Recipient
from sendq.messages.forms import encoded, quoted
from sendq.messages.mark import JOB_HEADER
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.unsubscribe import as_digested

_DIGEST_VERSION = 1


class SendText(NamedTuple):
    """The fields of a message that are set, as JSON, encoded once for its request and its digest.

    In parts, because a body that many messages have is stored apart from them, and the mark is added to ``metadata``
    and ``custom_headers``.
    """

    head: bytes  # `{"to":[…],"subject":"…"`
    body: bytes  # `,"body":"…"`, or empty
    rest: bytes  # the fields after the body, each after a comma
    marked_rest: Mapping[str, Any] | None  # the same not encoded, if some of them get the mark

    def plain(self) -> bytes:
        """The JSON without the mark."""
        return self.head + self.body + self.rest + b"}"

    def marked(self, job_id: str, metadata_key: str, *, body: bool = True) -> bytes:
        """The JSON with the mark of a job."""
        opening = self.head + self.body if body else self.head
        if self.marked_rest is None:
            job = quoted(job_id)
            mark = f'{{{quoted(metadata_key)}:{job}}},"custom_headers":[{{"name":"{JOB_HEADER}","value":{job}}}]'
            return opening + self.rest + f',"metadata":{mark}}}'.encode()
        rest: dict[str, Any] = {**self.marked_rest}
        rest["metadata"] = {**rest.get("metadata", {}), metadata_key: job_id}
        rest["custom_headers"] = [*rest.get("custom_headers", ()), {"name": JOB_HEADER, "value": job_id}]
        return opening + _after_others(rest) + b"}"


def send_text(message: Message, *, escaped_body: bytes | None = None) -> SendText:
    """The JSON of a message. ``escaped_body``: that of its body, without the quotes, if it is known."""
    head = [f'{{"to":{_people(message.to)}']
    if message.cc:
        head.append(f'"cc":{_people(message.cc)}')
    if message.bcc:
        head.append(f'"bcc":{_people(message.bcc)}')
    if message.reply_to:
        head.append(f'"reply_to":{_people(message.reply_to)}')
    if message.from_:
        head.append(f'"from":{_people(message.from_)}')
    if message.subject is not None:
        head.append(f'"subject":{quoted(message.subject)}')
    body = b""
    if escaped_body is not None:
        body = b',"body":"' + escaped_body + b'"'
    elif message.body is not None:
        body = b',"body":' + quoted(message.body).encode()
    rest = _rest(message)
    some_get_mark = "metadata" in rest or "custom_headers" in rest
    return SendText(",".join(head).encode(), body, _after_others(rest), rest if some_get_mark else None)


def _rest(message: Message) -> dict[str, Any]:
    """The fields after the body that are set, by their names in the API."""
    rest: dict[str, Any] = {}
    for field in ("is_plaintext", "reply_to_message_id", "signature_id"):
        value = getattr(message, field)
        if value is not None:
            rest[field] = value
    if message.custom_headers:
        rest["custom_headers"] = [{"name": header.name, "value": header.value} for header in message.custom_headers]
    if message.metadata:
        rest["metadata"] = dict(sorted(message.metadata.items()))
    if message.tracking_options is not None:
        rest["tracking_options"] = message.tracking_options.model_dump(exclude_none=True)
    if message.template is not None:
        rest["template"] = message.template.model_dump(exclude_none=True)
        if message.template.variables:
            rest["template"]["variables"] = dict(sorted(message.template.variables.items()))
    return rest


def _after_others(fields: Mapping[str, Any]) -> bytes:
    """Fields of a JSON object that come after others."""
    return b"," + encoded(fields)[1:-1] if fields else b""


def freeze_send(message: Message, *, job_id: str, metadata_key: str = "key1") -> bytes:
    """The JSON of a send request: compact, in UTF-8, with the fields that are set and the job's mark.

    Attachments are not included: their place depends on the form of the request (`sendq.messages.wire_format`).
    """
    return send_text(message).marked(job_id, metadata_key)


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
    text: SendText | None = None,
) -> bytes:
    """The digest of a send, as `content_digest`. Pass the times only if the caller set them.

    Attachments count by their digests, regardless of the form of the request. ``text``: the JSON of this message, if it
    is known already.
    """
    text = send_text(message) if text is None else text
    more: dict[str, Any] = {}
    if message.unsubscribe is not None:
        more["unsubscribe"] = as_digested(message.unsubscribe)
    if message.attachments:
        # The content type that the caller set: a guessed one may change with Python's table.
        more["attachments"] = [
            one.described() | {"content_type": one.content_type, "digest": one.content.measure().digest.hex()}
            for one in message.attachments
        ]
    payload = text.plain()[:-1] + _after_others(more) + b"}"
    return content_digest("send", application, grant_id, payload, due_at=due_at, expires_at=expires_at)


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
    if due_at is None and expires_at is None:
        return hashlib.sha256(_untimed_head(operation, application, grant_id))
    times = (
        None if at is None else at.astimezone(UTC).isoformat(timespec="microseconds") for at in (due_at, expires_at)
    )
    return hashlib.sha256(_head(operation, application, grant_id, *times))


def _head(operation: str, application: str, grant_id: str, *times: str | None) -> bytes:
    # JSON escapes line feeds, so the first one ends the head.
    return encoded([_DIGEST_VERSION, operation, application, grant_id, *times]) + b"\n"


# In a bulk call, it is that of every message.
@lru_cache(maxsize=256)
def _untimed_head(operation: str, application: str, grant_id: str) -> bytes:
    return _head(operation, application, grant_id, None, None)


def _people(people: tuple[Recipient, ...]) -> str:
    return f"[{','.join([_person(wire_form(person.email) or person.email, person.name) for person in people])}]"


def _person(email: str, name: str | None) -> str:
    return f'{{"email":{quoted(email)},"name":{quoted(name)}}}' if name else f'{{"email":{quoted(email)}}}'
