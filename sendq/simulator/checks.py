"""How the API validates a request: content type, size, JSON, and the types of the fields.

Fields and limits follow the OpenAPI document (``send-message``, ``update-message``) and
https://developer.nylas.com/docs/dev-guide/metadata/ . What the API does with a field it does not know is not
documented; here it is rejected, so that a test finds a misspelt field before a recipient does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sendq.simulator.answers import JSON_TYPE, Refusal, invalid

MAX_JSON = 3 * 1024 * 1024  # bytes of a whole JSON request, attachments (base64) included
MAX_MULTIPART = 25 * 1024 * 1024  # bytes of a whole multipart request

# A check returns what is expected if the value is something else.
Check = Callable[[Any], str | None]


def _is(kind: type, words: str) -> Check:
    # bool is an int to Python, but not to JSON
    return lambda value: None if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else words


def _each(kind: Check, words: str) -> Check:
    return lambda value: None if isinstance(value, list) and not any(kind(item) for item in value) else words


def _address(value: Any) -> str | None:
    if not isinstance(value, dict) or not value.keys() <= {"name", "email"} or "email" not in value:
        return "an object"
    name, address = value.get("name", ""), value["email"]
    if not isinstance(name, str) or not isinstance(address, str):
        return "strings"
    local, at, domain = address.rpartition("@")
    if not (local and at and domain) or any(ord(char) <= 32 for char in address):
        return "an address"
    return None


def _header(value: Any) -> str | None:
    fits = (
        isinstance(value, dict)
        and value.keys() == {"name", "value"}
        and all(isinstance(v, str) for v in value.values())
    )
    return None if fits else "a header"


def _attachment(value: Any) -> str | None:
    known = {"id", "filename", "content_type", "content", "content_id", "content_disposition", "size", "is_inline"}
    if not isinstance(value, dict) or not value.keys() <= known:
        return "an attachment"
    return None if "id" in value or {"filename", "content"} <= value.keys() else "an attachment"


def _metadata(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        return "a flat object of strings"
    if len(value) > 50:
        return "at most 50 pairs"
    if any(len(key) > 40 for key in value):
        return "keys of at most 40 characters"
    return "values of at most 500 characters" if any(len(item) > 500 for item in value.values()) else None


_text = _is(str, "a string")
_flag = _is(bool, "a boolean")
_whole = _is(int, "an integer")
_object = _is(dict, "an object")
_addresses = _each(_address, "an array of {name?, email}")

SEND: Mapping[str, Check] = {
    "to": _addresses,
    "cc": _addresses,
    "bcc": _addresses,
    "reply_to": _addresses,
    "from": _addresses,
    "subject": _text,
    "body": _text,
    "is_plaintext": _flag,
    "attachments": _each(_attachment, "an array of attachments"),
    "custom_headers": _each(_header, "an array of {name, value}"),
    "metadata": _metadata,
    "reply_to_message_id": _text,
    "send_at": _whole,
    "use_draft": _flag,
    "tracking_options": _object,
    "template": _object,
    "signature_id": _text,
}

MODIFY: Mapping[str, Check] = {
    "unread": _flag,
    "starred": _flag,
    "folders": _each(_text, "an array of strings"),
    "metadata": _metadata,
}


MODIFY_THREAD: Mapping[str, Check] = {name: check for name, check in MODIFY.items() if name != "metadata"}


def content(content_type: str, size: int) -> bool:
    """Whether the body is multipart. Raises `Refusal` for any other type than JSON, and for too large a body."""
    multipart = content_type.startswith("multipart/form-data;")
    # Exactly: the real API rejects a "; charset=utf-8" after it too.
    if not multipart and content_type != JSON_TYPE:
        raise invalid("Content-Type must be application/json or multipart/form-data", "invalid_request_payload")
    limit = MAX_MULTIPART if multipart else MAX_JSON
    if size > limit:
        raise Refusal(413, "request_entity_too_large", f"the request is larger than {limit // 1024 // 1024} MB")
    return multipart


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; raises `Refusal` if it is not one."""
    try:
        value = _decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise invalid("error parsing request body", "invalid_request_payload") from None
    if not isinstance(value, dict):
        raise invalid("error parsing request body: an object is expected", "invalid_request_payload")
    return value


def message(payload: dict[str, Any]) -> None:
    """Raises `Refusal` unless this is a message that can be sent."""
    _fields(payload, SEND)
    if not payload.get("to"):
        raise invalid("to: at least one recipient is required")
    if len(payload.get("from", [])) > 1:
        raise invalid("from: must hold one address")
    if payload.get("use_draft") and "send_at" not in payload:
        raise invalid("use_draft: only together with send_at")
    if not all(address["email"].isascii() for field in ("to", "cc", "bcc") for address in payload.get(field, ())):
        # https://developer.nylas.com/docs/api/errors/400-response/ , "Error 402"
        raise Refusal(402, "api.provider_error", "Sending to at least one recipient failed")


def changes(payload: dict[str, Any], provider: str, *, thread: bool = False) -> None:
    """Raises `Refusal` unless these are changes that can be made to a message (or thread) of this provider."""
    if not payload:
        raise invalid("Empty request body")
    _fields(payload, MODIFY_THREAD if thread else MODIFY)
    if provider == "microsoft" and len(payload.get("folders", ())) > 1:
        raise invalid("folders: a Microsoft message is in one folder")


def _fields(payload: dict[str, Any], known: Mapping[str, Check]) -> None:
    for name, value in payload.items():
        check = known.get(name)
        if check is None:
            raise invalid(f"{name[:40]!a}: unknown field")
        expected = check(value)
        if expected:
            raise invalid(f"{name}: must be {expected}")
