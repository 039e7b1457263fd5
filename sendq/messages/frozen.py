"""Reads the message back from the frozen bytes of a send (`sendq.messages.wire_format`). Contents of files are skipped.

A finished message is returned in the same fields as the others, as far as it has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import getaddresses
from typing import Any

from sendq.messages.forms import JSON, JSON_TEXT, MULTIPART

_ADDRESSES = {"from": "From", "to": "To", "cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}

# Only in the headers of a part: within the JSON the quotes are escaped.
_filename = re.compile(rb'; filename="((?:[^"\\\r\n]|\\.)*)"\r\n')


def read_message(
    form: str, opening: bytes, afters: Sequence[bytes], first_content: Callable[[], bytes]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of the request as the API names them, without ``attachments``, and the names of the attached files.

    Args:
        form: ``json``, ``json_text``, ``multipart`` or ``mime``.
        opening: the bytes of the request up to its first content.
        afters: the bytes after each content.
        first_content: returns the first content; called only if the text of the message is in it.
    """
    if form == JSON:
        fields = json.loads(b"".join((opening, *afters)))
        return fields, tuple(one["filename"] for one in fields.pop("attachments", ()))
    if form == JSON_TEXT:
        return json.loads(b"".join((opening, first_content(), *afters))), ()
    if form == MULTIPART:
        text = opening.partition(b"\r\n\r\n")[2].partition(b"\r\n")[0]  # no line break occurs in compact JSON
        names = (re.sub(rb"\\(.)", rb"\1", name).decode() for name in _filename.findall(b"".join((opening, *afters))))
        return json.loads(text or first_content()), tuple(names)
    return _of_mime(message_from_bytes(first_content(), policy=policy.default))


def _of_mime(message: EmailMessage) -> tuple[dict[str, Any], tuple[str, ...]]:
    fields: dict[str, Any] = {}
    for field, header in _ADDRESSES.items():
        found = getaddresses([str(value) for value in message.get_all(header, ())])
        if found:
            fields[field] = [{"email": address} | ({"name": name} if name else {}) for name, address in found]
    if message["Subject"] is not None:
        fields["subject"] = str(message["Subject"])
    body = message.get_body(("html", "plain"))
    if body is not None:
        fields["body"] = body.get_content()
    return fields, tuple(part.get_filename() or "" for part in message.iter_attachments())
