"""The form that a mail program posts to an unsubscribe link (RFC 8058, section 3.2)."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import HTTP
from urllib.parse import parse_qsl

from sendq.messages.unsubscribe import ONE_CLICK

_FIELD = tuple(ONE_CLICK.split("="))


def asks_one_click(body: bytes, content_type: str = "") -> bool:
    """Whether the form has the field ``List-Unsubscribe=One-Click``, as ``multipart/form-data`` or urlencoded.

    Any type that is not ``multipart/form-data`` is read as urlencoded: some programs send none.
    """
    if content_type.strip().lower().startswith("multipart/form-data"):
        return _FIELD in _parts(body, content_type)
    return _FIELD in parse_qsl(body.decode("latin-1").strip(), keep_blank_values=True)


def _parts(body: bytes, content_type: str) -> list[tuple[str, str]]:
    """The fields of ``multipart/form-data``."""
    head = f"Content-Type: {' '.join(content_type.split())}\r\n\r\n".encode("latin-1", "replace")
    found = []
    try:
        message = message_from_bytes(head + body, policy=HTTP)
        for part in message.iter_parts() if message.is_multipart() else ():
            name, value = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if part.get_content_disposition() == "form-data" and isinstance(name, str) and isinstance(value, bytes):
                found.append((name, value.decode("latin-1")))
    except (ValueError, LookupError, AttributeError, IndexError, TypeError):
        # What the standard library's parser raises for headers that are not well-formed.
        return found
    return found
