"""From a request's body to the message it sends: JSON, form data, or finished MIME.

Instead of a file's content it has ``size`` and ``digest`` (SHA-256), so that tests can compare without the simulator
storing the content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from typing import Any

from sendq.simulator import checks
from sendq.simulator.answers import JSON_TYPE, invalid
from sendq.simulator.store import Request

_PAYLOAD = "invalid_request_payload"


def message_of(request: Request, *, mime: bool) -> dict[str, Any]:
    """The message of a send request, with files by their digests. Raises `Refusal`."""
    if request.headers["content-type"] == JSON_TYPE:
        if mime:
            raise invalid("type=mime: the message comes as multipart/form-data, in the part 'mime'", _PAYLOAD)
        message = checks.json_object(request.body)
        checks.message(message)
        return _without_contents(message)
    if request.malformed:
        raise invalid(f"error parsing request body: {request.malformed}", _PAYLOAD)
    wanted = "mime" if mime else "message"
    named = [file for file in request.files if file["name"] == wanted]
    if len(named) != 1:
        raise invalid(f"error parsing request body: the part {wanted!r} is missing", _PAYLOAD)
    if mime:
        return _finished(request, named[0])
    message = checks.json_object(request.body)
    checks.message(message)
    files = [_described(file) for file in request.files if file is not named[0]]
    return {**_without_contents(message), **({"attachments": files} if files else {})}


def _without_contents(message: dict[str, Any]) -> dict[str, Any]:
    if "attachments" not in message:
        return message
    return {**message, "attachments": [_digested(one) for one in message["attachments"]]}


def _digested(attachment: dict[str, Any]) -> dict[str, Any]:
    if "content" not in attachment:
        return attachment
    try:
        content = base64.b64decode(attachment["content"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("attachments: content must be base64") from None
    known = {name: value for name, value in attachment.items() if name != "content"}
    return known | {"size": len(content), "digest": hashlib.sha256(content).hexdigest()}


def _described(file: dict[str, Any]) -> dict[str, Any]:
    """A file as an attachment: the name of its part is its content id."""
    shown = {name: file[name] for name in ("content_type", "size", "digest")}
    return {"filename": file["filename"] or "", "content_id": file["name"], **shown}


def _finished(request: Request, part: dict[str, Any]) -> dict[str, Any]:
    """A finished message by its headers; all of it counts as one file."""
    headers = BytesHeaderParser().parsebytes(request.body)
    message: dict[str, Any] = {}
    for name in ("To", "Cc", "Bcc", "From", "Reply-To"):
        values = [str(value) for value in headers.get_all(name, ())]
        people = [{"name": _decoded(person), "email": email} for person, email in getaddresses(values) if email]
        if people:
            message[name.lower().replace("-", "_")] = people
    if headers["Subject"]:
        message["subject"] = _decoded(str(headers["Subject"]))
    message["custom_headers"] = [{"name": name, "value": str(value)} for name, value in headers.items()]
    if not message.keys() & {"to", "cc", "bcc"}:
        raise invalid("mime: at least one recipient is required")
    message.setdefault("to", [])
    return message | {"attachments": [_described(part)]}


def _decoded(text: str) -> str:
    """The text of a header whose characters were encoded (RFC 2047); as it is if that cannot be read."""
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return text
