"""`MimeMessage`: a finished message, RFC 5322 headers and a body, sent unchanged.

    MimeMessage(email_message.as_bytes())
    MimeMessage(Path("signed.eml"))

Recipients, sender and subject are those of its headers. sendq adds one line, ``X-Sendq-Job: <job id>``, above the first
header, and changes no byte below it. Signatures of the content (S/MIME, PGP/MIME) do not cover the headers and stay
valid. So do DKIM signatures, unless they cover that very header, which is refused. The provider may still rewrite
headers (``Message-ID``, ``Date``) or remove a ``Bcc``. This form has no metadata: if the answer to a send is lost, the
message is found again by its header only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from email.message import Message as Headers
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import BinaryIO

from sendq.errors import Problem
from sendq.messages.content import CHUNK, Content, ContentFault
from sendq.messages.mark import JOB_HEADER

_FIELD = "mime"
_blank_line = re.compile(rb"\r?\n\r?\n")
# RFC 5322, section 2.2: a field name is printable ASCII without the colon. (A line "From …" of a mailbox file is none.)
_first_line = re.compile(rb"[!-9;-~]+[ \t]*:")
_RECIPIENTS = ("To", "Cc", "Bcc")


class MimeMessage:
    """A finished message. ``raw`` is bytes, a path, or a binary file object, which is read from its current position.

    Raises `InvalidJob` for anything else. The call that enqueues the message raises what is wrong inside.
    """

    __slots__ = ("content",)

    def __init__(self, raw: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Content) -> None:
        self.content = Content.of(raw)

    def line_ending(self) -> bytes:
        """The ending of its first line: CRLF as the standard has it, or LF as Python's ``as_bytes()`` writes."""
        head = self.content.head()
        end = head.find(b"\n")
        return b"\r\n" if head[end - 1 : end] == b"\r" else b"\n"

    def headers(self) -> Headers:
        """Its headers. Raises `ContentFault` if it cannot be read."""
        block = _blank_line.split(self.content.head(), maxsplit=1)[0]
        return BytesHeaderParser().parsebytes(block)

    def senders(self) -> list[str]:
        """The addresses in ``From``."""
        return _addresses(self.headers(), ("From",))

    def __repr__(self) -> str:
        return "MimeMessage(…)"


def mime_problems(message: MimeMessage, *, most_recipients: int | None) -> list[Problem]:
    """What is wrong with a finished message. Measures its content."""
    try:
        message.content.measure()
        head = message.content.head()
    except ContentFault as fault:
        return [Problem(_FIELD, fault.reason, fault.remedy)]
    if not _first_line.match(head):
        return [Problem(_FIELD, "does not begin with a header", "pass the whole message, headers first")]
    if not _blank_line.search(head):
        reason = f"has no empty line after its headers within {CHUNK:,} bytes"
        return [Problem(_FIELD, reason, "pass the whole message: headers, an empty line, the body")]
    return _header_problems(message.headers(), most_recipients)


def _header_problems(headers: Headers, most_recipients: int | None) -> list[Problem]:
    problems = []
    recipients = len(_addresses(headers, _RECIPIENTS))
    if not recipients:
        problems.append(Problem(_FIELD, "has no recipient in To, Cc or Bcc", "add at least one to its headers"))
    if most_recipients is not None and recipients > most_recipients:
        reason = f"has more than {most_recipients} recipients, the most that Microsoft allows"
        problems.append(Problem(_FIELD, reason, "send several messages"))
    if JOB_HEADER in headers:
        problems.append(Problem(_FIELD, f"has the header {JOB_HEADER}, which sendq sets itself", "remove it"))
    if any(_signs_our_header(str(signature)) for signature in headers.get_all("DKIM-Signature", ())):
        reason = f"has a DKIM signature over {JOB_HEADER}, which sendq adds"
        problems.append(Problem(_FIELD, reason, "do not sign that header"))
    return problems


def _signs_our_header(signature: str) -> bool:
    tags = dict(tag.split("=", 1) for tag in re.sub(r"\s+", "", signature).split(";") if "=" in tag)
    return JOB_HEADER.lower() in tags.get("h", "").lower().split(":")


def _addresses(headers: Headers, names: Iterable[str]) -> list[str]:
    values = [str(value) for name in names for value in headers.get_all(name, ())]
    return [address for _, address in getaddresses(values) if address]
