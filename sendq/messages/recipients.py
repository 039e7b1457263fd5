"""The recipients of a mail with the fields that name them, from a message or from the frozen bytes of its request."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from sendq.messages.address_list import UnreadableList, addresses_in
from sendq.messages.forms import JSON, JSON_TEXT, MIME, MULTIPART
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage, header_fields

_FIELDS = ("to", "cc", "bcc")
_MIME_FIELDS = frozenset({*_FIELDS, "resent-to", "resent-cc", "resent-bcc", "apparently-to"})
_UNSUBSCRIBE = "list-unsubscribe"

# In the JSON of a request. Within a text its quotes would be escaped.
_header = re.compile(r'"name":"List-Unsubscribe","value":("(?:[^"\\]|\\.)*")', re.IGNORECASE).finditer
_decode = json.JSONDecoder().raw_decode


class Recipients(NamedTuple):
    """The recipients of a mail, as (field, address), and the values of its headers ``List-Unsubscribe``."""

    named: list[tuple[str, str]]
    unsubscribe: list[str]


def recipients_of(message: Message | MimeMessage) -> Recipients:
    """The recipients of a (checked) message: ``to[0]``, ``cc[2]``, ``mime.To[0]``."""
    if isinstance(message, MimeMessage):
        return _of_head(message.content.head())
    people = (("to", message.to), ("cc", message.cc), ("bcc", message.bcc))
    return Recipients(
        [(f"{field}[{index}]", one.email) for field, some in people for index, one in enumerate(some)],
        [header.value for header in message.custom_headers if header.name.lower() == _UNSUBSCRIBE],
    )


def text_of(form: str | None, opening: bytes) -> bytes | None:
    """The part of a request's opening that names its recipients; None: they are in its first content."""
    if form in (JSON, JSON_TEXT):
        return opening
    if form == MULTIPART:
        return opening.partition(b"\r\n\r\n")[2].partition(b"\r\n")[0] or None  # compact JSON has no line break
    return None


def recipients_in(form: str | None, text: bytes) -> Recipients:
    """The recipients in a request: its JSON, or the beginning of a finished message.

    Raises ``ValueError`` if the text ends before the last of them.
    """
    if form == MIME:
        return _of_head(text)
    # The first fields of the JSON (`sendq.messages.payload`), and the only ones that are parsed: the text may be long.
    json_text, named = text.decode(errors="replace"), []
    place, joint = 0, "{"
    for field in _FIELDS:
        if not json_text.startswith(start := f'{joint}"{field}":', place):
            continue
        people, place = _decode(json_text, place + len(start))
        named += [(f"{field}[{index}]", str(one["email"])) for index, one in enumerate(people)]
        joint = ","
    return Recipients(named, [json.loads(found[1]) for found in _header(json_text, place)])


def _of_head(head: bytes) -> Recipients:
    named: list[tuple[str, str]] = []
    unsubscribe = []
    for name, value in header_fields(head) or []:
        lowered = name.lower()
        if lowered == _UNSUBSCRIBE:
            unsubscribe.append(value)
        elif lowered in _MIME_FIELDS:
            try:
                named += [(f"mime.{name}[{index}]", one) for index, one in enumerate(addresses_in(value))]
            except UnreadableList:
                continue  # it was refused at enqueue
    return Recipients(named, unsubscribe)
