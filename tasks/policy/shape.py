"""Whether the answer to a call has the form of the API's own success. Pure.

The status 2xx alone proves nothing: a proxy, a captive portal or a gateway in between may have written the answer and
never have passed the request on (and ``x-request-id`` is added by Envoy, Heroku and others too). So a send counts as
sent only if the answer is a JSON object whose ``data`` is an object with an id or, since the samples of the official
document lack it, beside the ``request_id`` and ``grant_id`` that the document requires. A 202 has a ``schedule_id``
instead. A grant that is named must be the one that was called.

A modification may be repeated, so less is asked of its answer: the API's envelope, or 204 with nothing.

Facts: Nylas, OpenAPI document (``send-message``: 200, 202; ``put-messages-id``; ``delete-message``: a ``request_id``
and no data).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# What an answer lacks, for the trail.
NO_OBJECT = "the answer is not a JSON object"
NO_DATA = "the answer has no object in data"
NO_ID = "the answer has no id of the message in data"
NO_ENVELOPE = "the answer has neither a request_id nor data"
OTHER_GRANT = "the answer names another grant"
AN_ERROR = "the answer has an error in its body"


def lacks(document: Mapping[str, Any] | None, *, status: int, operation: str, grant_id: str | None) -> str | None:
    """What is missing to be a success, in words that quote nothing; None: it is one.

    ``document`` is the JSON object, None if the body is none. ``grant_id``: the grant that was called; None if it is
    not known.
    """
    if document is None:
        return NO_OBJECT
    data = document.get("data")
    member: Mapping[str, Any] = data if isinstance(data, dict) else {}
    if not member and has_error(document):
        return AN_ERROR
    if not all(_is_of(named, grant_id) for named in (document.get("grant_id"), member.get("grant_id"))):
        return OTHER_GRANT
    if operation != "send":
        return None if isinstance(data, dict | list) or _is_id(document.get("request_id")) else NO_ENVELOPE
    if not member:
        return NO_DATA
    enveloped = _is_id(document.get("request_id")) and _is_id(document.get("grant_id"))
    scheduled = status == 202 and _is_id(document.get("schedule_id"))
    return None if _is_id(member.get("id")) or enveloped or scheduled else NO_ID


def has_error(document: Mapping[str, Any]) -> bool:
    """Whether it is an error; the legacy engine reported a partly refused send under 200."""
    legacy = "message" in document and "error" in str(document.get("type"))[:80].lower()
    return bool(document.get("error") or document.get("failures") or legacy)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_of(named: object, grant_id: str | None) -> bool:
    """Whether a grant that is named, if one is, can be the one that was called.

    A path may call it by something else than its id: its address, ``email:…``, ``external:…`` or ``me`` ("Grant ID
    patterns").
    """
    if named is None or named == "":
        return True
    if not isinstance(named, str):
        return False
    called = (grant_id or "me").strip().casefold().removeprefix("grant:")
    return called == "me" or "@" in called or ":" in called or named.strip().casefold() == called


# --- of an answer that is longer than what is read of it --------------------------------------------------------------

# A string, and whether it names a member; a bracket; any other value; the quotation mark of a string that was cut off.
_TOKEN = re.compile(r'[\s,]*(?:("(?:[^"\\]|\\.)*")(\s*:)?|([{}\[\]])|[^\s,{}\[\]"]+|("))')
_TOKENS_MOST = 2_000


def beginning(text: str) -> dict[str, Any] | None:
    """Of a JSON object whose end was cut off, its members and those of its ``data``, as far as they were read; None if
    the text does not begin like one. What is not a string is "".
    """
    if not text.lstrip("\ufeff \t\r\n").startswith("{"):
        return None
    found: dict[str, Any] = {}
    path: list[str | None] = []  # of each open object or list, the member that it is
    name: str | None = None
    for count, token in enumerate(_TOKEN.finditer(text)):
        string, colon, bracket, cut_off = token.groups()
        if count >= _TOKENS_MOST or cut_off:
            break
        if bracket is not None and bracket in "{[":
            path.append(name)
            if path[1:] == ["data"] and bracket == "{":
                found["data"] = {}
        elif bracket is not None:
            if path:
                path.pop()
        elif string is not None and colon:
            name = _text(string)
            _put(found, path, name, "")
            continue
        elif string is not None and name is not None:
            _put(found, path, name, _text(string))
        name = None
    return found


def _put(found: dict[str, Any], path: list[str | None], name: str, value: str) -> None:
    if len(path) == 1:
        found[name] = value
    elif path[1:] == ["data"] and isinstance(found.get("data"), dict):
        found["data"][name] = value


def _text(token: str) -> str:
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return ""
