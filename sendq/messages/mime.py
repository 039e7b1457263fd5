"""`MimeMessage`: a finished message, RFC 5322 headers and a body, sent unchanged.

    MimeMessage(email_message.as_bytes())
    MimeMessage(Path("signed.eml"))

Recipients, sender and subject are those of its headers. sendq adds one line, ``X-Sendq-Job: <job id>``, above the first
header, and changes no byte below it. Signatures of the content (S/MIME, PGP/MIME) do not cover the headers and stay
valid. So do DKIM signatures, unless they cover that very header, which is refused. The provider may still rewrite
headers (``Message-ID``, ``Date``) or remove a ``Bcc``. Its recipients and senders are checked like those of a
`sendq.messages.message.Message`. This form has no metadata: if the answer to a send is lost, the
message is found again by its header only.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from sendq.errors import Problem
from sendq.messages.address_list import UnreadableList, addresses_in
from sendq.messages.addresses import fault, wire_form
from sendq.messages.characters import header_fault, shown
from sendq.messages.content import CHUNK, Content, ContentFault
from sendq.messages.mark import JOB_HEADER

_FIELD = "mime"
_blank_line = re.compile(rb"\r?\n\r?\n")
# RFC 5322, section 2.2: a field name is printable ASCII without the colon. (A line "From …" of a mailbox file is none.)
# The obsolete form has white space before the colon: "Bcc :" is a Bcc.
_header_line = re.compile(rb"([!-9;-~]+)[ \t]*:").match

# Mail may go to the addresses in any of these; the three that a message normally has first.
_RECIPIENTS = ("to", "cc", "bcc")
_FURTHER_RECIPIENTS = ("resent-to", "resent-cc", "resent-bcc", "apparently-to")
_SENDERS = ("from", "sender", "resent-from", "resent-sender")
_OTHER_PEOPLE = ("reply-to",)

# Which of two counts, mail programs decide differently (RFC 5322, section 3.6).
_ONCE = frozenset({"from", "sender", "reply-to", "subject", "date", "message-id", "mime-version", "content-type"})


class MimeMessage:
    """A finished message. ``raw`` is bytes, a path, or a binary file object, which is read from its current position.

    Raises `InvalidJob` for anything else. The call that enqueues the message raises what is wrong inside.
    """

    __slots__ = ("_scanned", "content")

    def __init__(self, raw: bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO | Content) -> None:
        self.content = Content.of(raw)
        self._scanned: tuple[bytes, list[str]] | None = None

    def line_ending(self) -> bytes:
        """The ending of its first line: CRLF as the standard has it, or LF as Python's ``as_bytes()`` writes."""
        head = self.content.head()
        end = head.find(b"\n")
        return b"\r\n" if head[end - 1 : end] == b"\r" else b"\n"

    def byte_faults(self) -> list[str]:
        """Which bytes it contains that a message must not (RFC 5322, section 2.2 and 2.3): NUL, and CR without LF.

        Reads the whole content, once; not one that is too large. Raises `ContentFault`.
        """
        digest = self.content.measure().digest
        if not digest:
            return []
        if self._scanned is None or self._scanned[0] != digest:
            self._scanned = digest, _byte_faults(self.content.chunks())
        return self._scanned[1]

    def senders(self) -> dict[str, list[str]]:
        """The addresses of each header that names a sender. The message has been checked."""
        spelling: dict[str, str] = {}
        found: dict[str, list[str]] = {}
        for name, value in header_fields(self.content.head()) or []:
            if name.lower() in _SENDERS:
                found.setdefault(spelling.setdefault(name.lower(), name), []).extend(addresses_in(value))
        return found

    def __repr__(self) -> str:
        return "MimeMessage(…)"


def mime_problems(message: MimeMessage, *, most_recipients: int | None) -> list[Problem]:
    """What is wrong with a finished message. Measures its content."""
    try:
        bytes_found = message.byte_faults()
        head = message.content.head()
    except ContentFault as wrong:
        return [Problem(_FIELD, wrong.reason, wrong.remedy)]
    if not _header_line(head):
        return [Problem(_FIELD, "does not begin with a header", "pass the whole message, headers first")]
    if not _blank_line.search(head):
        reason = f"has no empty line after its headers within {CHUNK:,} bytes"
        return [Problem(_FIELD, reason, "pass the whole message: headers, an empty line, the body")]
    if bytes_found:
        remedy = "remove it, or encode the part as base64 or quoted-printable"
        return [Problem(_FIELD, f"contains {' and '.join(bytes_found)}", remedy)]
    fields = header_fields(head)
    if fields is None:
        reason = "has a line between its headers that is neither a header nor the continuation of one"
        return [Problem(_FIELD, reason, "write each header as Name: value")]
    return _header_problems(fields, most_recipients)


def _byte_faults(chunks: Iterator[bytes]) -> list[str]:
    nul = bare = ends_with_cr = False
    for chunk in chunks:
        nul = nul or b"\0" in chunk
        bare = bare or (ends_with_cr and not chunk.startswith(b"\n"))
        ends_with_cr = chunk.endswith(b"\r")
        bare = bare or chunk.count(b"\r") - ends_with_cr != chunk.count(b"\r\n")
    bare = bare or ends_with_cr
    return ["a NUL byte"] * nul + ["a CR without LF after it"] * bare


def header_fields(head: bytes) -> list[tuple[str, str]] | None:
    """Names and values of the headers, lines joined; None if a line is no header.

    Not `email.parser`, which takes what follows such a line for the body: the recipients below would not be counted.
    """
    lines = re.split(rb"\r?\n", _blank_line.split(head, maxsplit=1)[0])
    found: list[tuple[str, list[bytes]]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and found:
            found[-1][1].append(line)
        elif (name := _header_line(line)) is not None:
            found.append((name[1].decode(), [line[name.end() :]]))
        else:
            return None
    return [(name, b"".join(value).decode(errors="replace")) for name, value in found]


def _header_problems(fields: list[tuple[str, str]], most_recipients: int | None) -> list[Problem]:
    problems = [
        Problem(f"{_FIELD}.{name}", f"occurs {count} times", "keep one")
        for name, count in Counter(name.lower() for name, _ in fields).items()
        if count > 1 and name in _ONCE
    ]
    recipients = further = 0
    for name, value in fields:
        problems += _value_problems(name, value)
        lowered = name.lower()
        if lowered in (*_RECIPIENTS, *_FURTHER_RECIPIENTS, *_SENDERS, *_OTHER_PEOPLE):
            count, found = _people(name, value)
            problems += found
            recipients += count if lowered in _RECIPIENTS else 0
            further += count if lowered in _FURTHER_RECIPIENTS else 0
    if not recipients and not problems:
        problems.append(Problem(_FIELD, "has no recipient in To, Cc or Bcc", "add at least one to its headers"))
    if most_recipients is not None and recipients + further > most_recipients:
        reason = f"has more than {most_recipients} recipients, the most that Microsoft allows"
        problems.append(Problem(_FIELD, reason, "send several messages"))
    return problems


def _value_problems(name: str, value: str) -> list[Problem]:
    if name.lower() == JOB_HEADER.lower():
        return [Problem(_FIELD, f"has the header {JOB_HEADER}, which sendq sets itself", "remove it")]
    if (wrong := header_fault(value)) is not None:
        return [Problem(f"{_FIELD}.{shown(name)}", wrong, "remove it, or encode it (RFC 2047)")]
    if name.lower() == "dkim-signature" and _signs_our_header(value):
        reason = f"has a DKIM signature over {JOB_HEADER}, which sendq adds"
        return [Problem(_FIELD, reason, "do not sign that header")]
    return []


def _people(name: str, value: str) -> tuple[int, list[Problem]]:
    """How many addresses a header has, and what is wrong with them."""
    field = f"{_FIELD}.{shown(name)}"
    try:
        addresses = addresses_in(value)
    except UnreadableList:
        remedy = 'write it as Name <address>, Name <address>; a name with commas or brackets as "Name"'
        return 0, [Problem(field, "is not a list of addresses", remedy)]
    if not addresses and name.lower() in _SENDERS:
        return 0, [Problem(field, "has no address", "write one, or leave the header out")]
    problems = []
    for index, address in enumerate(addresses):
        wire = wire_form(address)
        if wire is None:
            problems.append(Problem(f"{field}[{index}]", fault(address), "correct it"))
        elif wire != address:
            reason = "has a domain outside ASCII, and the headers of a finished message are not changed"
            problems.append(Problem(f"{field}[{index}]", reason, "write the domain in its ASCII form (xn--…)"))
    return len(addresses), problems


def _signs_our_header(signature: str) -> bool:
    tags = dict(tag.split("=", 1) for tag in re.sub(r"\s+", "", signature).split(";") if "=" in tag)
    return JOB_HEADER.lower() in tags.get("h", "").lower().split(":")
