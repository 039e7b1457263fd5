"""The forms of a send request, as exact bytes.

    json        {"to":…,"attachments":[{…,"content":"  base64  "}]}       up to 3 MB, files included
    json_text   {"to":…,"body":"  text  "}: json whose text is a content  likewise, without files
    multipart   the JSON in a part named `message`, then any files        up to 25 MB, with much lower rate limits
    mime        a finished message in a part named `mime`                 up to 25 MB, likewise

A request is an *opening*, followed by each file's content and the bytes after it. This module makes everything except
the contents; those stay in their source (`sendq.messages.content`), and the ledger stores each content once for all
requests that have it. A long text is such a content too, so that a worker streams it as it does a file. The boundary is
derived from the job's id, so that a repeat has the same bytes.

Sources: Nylas, "Using the Attachments API" (sizes, the two schemas) and its clients (a file's part is named by its
content id; a finished message is the file part `mime`); RFC 7578 (form data), RFC 2046 section 5.1.1 (boundaries).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sendq.messages.attachment import MESSAGE_PART, Attachment, part_names
from sendq.messages.content import Content
from sendq.messages.forms import JSON, JSON_TEXT, JSON_TYPE, MAX_JSON_BYTES, MIME, MULTIPART, content_length, encoded
from sendq.messages.mark import JOB_HEADER
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.payload import SendText, send_text

_MIME_HEAD = 'Content-Disposition: form-data; name="mime"; filename="message.eml"\r\nContent-Type: message/rfc822'


@dataclass(frozen=True, slots=True)
class Piece:
    """A content, and the bytes between it and the next one or the end."""

    content: Content
    after: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The body of a request. In the form ``json`` the contents are sent as base64, in all others as they are."""

    form: str
    content_type: str
    opening: bytes
    pieces: tuple[Piece, ...] = ()

    @property
    def length(self) -> int:
        """Bytes of the whole body. The contents have been measured."""
        sizes = (content_length(self.form, piece.content.measure().size) + len(piece.after) for piece in self.pieces)
        return len(self.opening) + sum(sizes)


class SharedText(NamedTuple):
    """A body that many messages have: as a content, and as its JSON without the quotes (the content's own bytes)."""

    content: Content
    escaped: bytes


def request_of(
    message: Message | MimeMessage, *, job_id: str, metadata_key: str, text: SendText | None = None
) -> Request:
    """The request that sends ``message``; its size decides the form. The message has been checked.

    ``text``: the JSON of this message, if it is known already.
    """
    if isinstance(message, MimeMessage):
        return _mime(message, job_id)
    frozen = (send_text(message) if text is None else text).marked(job_id, metadata_key)
    request = _json(frozen, message.attachments)
    return request if request.length <= MAX_JSON_BYTES else _multipart(frozen, message.attachments, job_id)


def with_shared_text(text: SendText, shared: SharedText, *, job_id: str, metadata_key: str) -> Request:
    """The request that sends a message without files whose body is stored only once.

    The body comes last, because code that needs the recipients or headers of a stored request reads its opening only.
    """
    opening = text.marked(job_id, metadata_key, body=False)
    return Request(JSON_TEXT, JSON_TYPE, opening[:-1] + b',"body":"', (Piece(shared.content, b'"}'),))


def shared_text(body: str) -> SharedText:
    """A body for requests in the form ``json_text``."""
    escaped = encoded(body)[1:-1]
    return SharedText(Content.of(escaped), escaped)


def _json(text: bytes, attachments: tuple[Attachment, ...]) -> Request:
    if not attachments:
        return Request(JSON, JSON_TYPE, text)
    heads = [encoded(one.described())[:-1] + b',"content":"' for one in attachments]
    opening = text[:-1] + b',"attachments":[' + heads[0]
    return Request(JSON, JSON_TYPE, opening, tuple(_joined(attachments, b'"},', heads[1:], b'"}]}')))


def _multipart(text: bytes, attachments: tuple[Attachment, ...], job_id: str) -> Request:
    boundary = _boundary(job_id)
    opening = _part_head(
        boundary, f'Content-Disposition: form-data; name="{MESSAGE_PART}"\r\nContent-Type: {JSON_TYPE}'
    )
    heads = [
        _part_head(boundary, _file_head(name, one))
        for name, one in zip(part_names(attachments), attachments, strict=True)
    ]
    closing = _closing(boundary)
    after_text = b"\r\n" + heads[0] if heads else closing
    files = tuple(_joined(attachments, b"\r\n", heads[1:], closing))
    if len(text) <= MAX_JSON_BYTES:
        return Request(MULTIPART, _multipart_type(boundary), opening + text + after_text, files)
    return Request(MULTIPART, _multipart_type(boundary), opening, (Piece(Content.of(text), after_text), *files))


def _mime(message: MimeMessage, job_id: str) -> Request:
    boundary = _boundary(job_id)
    # At the very top, where mail servers add theirs: nothing below changes.
    mark = f"{JOB_HEADER}: {job_id}".encode() + message.line_ending()
    opening = _part_head(boundary, _MIME_HEAD) + mark
    return Request(MIME, _multipart_type(boundary), opening, (Piece(message.content, _closing(boundary)),))


def _joined(attachments: tuple[Attachment, ...], between: bytes, heads: list[bytes], closing: bytes) -> Iterator[Piece]:
    for index, one in enumerate(attachments):
        yield Piece(one.content, between + heads[index] if index < len(heads) else closing)


def _file_head(name: str, one: Attachment) -> str:
    quoted = one.filename.replace("\\", "\\\\").replace('"', '\\"')
    return f'Content-Disposition: form-data; name="{name}"; filename="{quoted}"\r\nContent-Type: {one.type}'


def _part_head(boundary: str, head: str) -> bytes:
    return f"--{boundary}\r\n{head}\r\n\r\n".encode()


def _closing(boundary: str) -> bytes:
    return f"\r\n--{boundary}--\r\n".encode()


def _boundary(job_id: str) -> str:
    # No file can contain it by intent: 62 bits of a job's id are random.
    return "sendq-" + job_id.replace("-", "")


def _multipart_type(boundary: str) -> str:
    return f"multipart/form-data; boundary={boundary}"
