"""The three forms of a send request, as the exact bytes that go over the wire.

    json        {"to":…,"attachments":[{…,"content":"  base64  "}]}       below 3 MB, files and all
    multipart   the JSON in a part called `message`, then the files       up to 25 MB, at a far lower pace
    mime        a finished message in a part called `mime`                up to 25 MB, likewise

A request is an *opening*, and then for each file its content and the bytes that follow it. Only what is not a content
is made here; contents stay where they are (`sendq.messages.content`), and in the ledger each is stored once, however
many requests hold it. The boundary comes from the job's id, so that a repeat is the same bytes.

Facts: Nylas, "Using the Attachments API" (sizes, the two schemas) and its clients (a file's part is called by its
content id; a finished message is the file part `mime`); RFC 7578 (form data), RFC 2046 section 5.1.1 (boundaries).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sendq.messages.attachment import MESSAGE_PART, Attachment, part_names
from sendq.messages.content import MOST_BYTES, Content
from sendq.messages.mark import JOB_HEADER
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.payload import encoded, freeze_send

JSON_TYPE = "application/json"

# The whole JSON request, not only its attachments; above it Nylas wants multipart. Their page says 3 MB and not which
# mega: this is the smaller one.
MAX_JSON_BYTES = 3_000_000
MAX_MULTIPART_BYTES = MOST_BYTES

JSON, MULTIPART, MIME = "json", "multipart", "mime"

_MIME_HEAD = 'Content-Disposition: form-data; name="mime"; filename="message.eml"\r\nContent-Type: message/rfc822'


@dataclass(frozen=True, slots=True)
class Piece:
    """A content, and the bytes between it and the next one or the end."""

    content: Content
    after: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What goes over the wire. In the form ``json`` the contents go as base64."""

    form: str
    content_type: str
    opening: bytes
    pieces: tuple[Piece, ...] = ()

    @property
    def length(self) -> int:
        """Bytes of the whole body. The contents have been measured."""
        sizes = (content_length(self.form, piece.content.measure().size) + len(piece.after) for piece in self.pieces)
        return len(self.opening) + sum(sizes)


def content_length(form: str, size: int) -> int:
    """Bytes that a content of ``size`` takes in a request of this form."""
    return (size + 2) // 3 * 4 if form == JSON else size


def request_of(message: Message | MimeMessage, *, job_id: str, metadata_key: str) -> Request:
    """The request that sends ``message``; its form by its size. The message has been checked."""
    if isinstance(message, MimeMessage):
        return _mime(message, job_id)
    text = freeze_send(message, job_id=job_id, metadata_key=metadata_key)
    if not message.attachments:
        return Request(JSON, JSON_TYPE, text)
    request = _json(text, message.attachments)
    return request if request.length <= MAX_JSON_BYTES else _multipart(text, message.attachments, job_id)


def most_bytes(form: str) -> int:
    """The most that a request of this form may have."""
    return MAX_JSON_BYTES if form == JSON else MAX_MULTIPART_BYTES


def _json(text: bytes, attachments: tuple[Attachment, ...]) -> Request:
    heads = [encoded(one.described())[:-1] + b',"content":"' for one in attachments]
    opening = text[:-1] + b',"attachments":[' + heads[0]
    return Request(JSON, JSON_TYPE, opening, tuple(_joined(attachments, b'"},', heads[1:], b'"}]}')))


def _multipart(text: bytes, attachments: tuple[Attachment, ...], job_id: str) -> Request:
    boundary = _boundary(job_id)
    heads = [
        _part_head(boundary, _file_head(name, one))
        for name, one in zip(part_names(attachments), attachments, strict=True)
    ]
    message = f'Content-Disposition: form-data; name="{MESSAGE_PART}"\r\nContent-Type: {JSON_TYPE}'
    opening = _part_head(boundary, message) + text + b"\r\n" + heads[0]
    pieces = _joined(attachments, b"\r\n", heads[1:], _closing(boundary))
    return Request(MULTIPART, _multipart_type(boundary), opening, tuple(pieces))


def _mime(message: MimeMessage, job_id: str) -> Request:
    boundary = _boundary(job_id)
    # At the very top, where those who carry a message put their own lines: nothing below is touched.
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
    # Nobody can put it into a file beforehand: 62 bits of a job's id are random.
    return "sendq-" + job_id.replace("-", "")


def _multipart_type(boundary: str) -> str:
    return f"multipart/form-data; boundary={boundary}"
