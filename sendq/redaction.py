"""Takes addresses of people, keys and passwords out of text that goes to a log, a report or the ledger. Pure.

This is the second line of defence: errors and events of this code name fields and carry ids. But an exception of a
library may quote what it was given, and a provider's answer may quote a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_AT = re.compile("@|%40|\uff20")
# A local part, read backwards from its @. What ends it in our own text also ends it in front of a path or a login.
_LOCAL_REVERSED = re.compile(r"[^\s@<>()\[\]{},;:|\"'`=\\/]*")
_LOCAL_REVERSED_IN_ANSWERS = re.compile(r"[^\s@<>()\[\]{},;:|\"'`=\\]*")
_DOMAIN = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}")
_PASSWORD = re.compile(r"(://[^\s:/?#@]{0,256}):[^\s]{1,512}@")
_KEY = re.compile(r"\bnyk_[\w-]+")
_AUTHORIZATION = re.compile(r"(?i:\b(bearer|basic)\s+)[\w.~+/=-]{8,}")


def redact(text: str) -> str:
    """Our own text, with ``[address]``, ``[key]`` and ``[password]`` in place of each.

    An address has a domain with a dot: ``celery@host`` is a node of Celery, ``tasks.mail@billing`` a task on a queue.
    The price is a node's name like ``celery@worker.example.com``.
    """
    text = _AUTHORIZATION.sub("[key]", _KEY.sub("[key]", text))
    return _without_addresses(_PASSWORD.sub(r"\1:[password]@", text)) if _AT.search(text) else text


def redact_all(value: Any) -> Any:
    """`redact` for every text in a structure of mappings, lists and tuples; the keys of mappings stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(each) for each in value]
    return value


def redact_answer(text: str) -> str:
    """Text from an answer of the API, with ``…`` in place of keys, passwords and what stands before any ``@``.

    No words are put in, because rules of the error policy might match them. Domains stay (``…@example.com``), and so
    does what looks like an ``Authorization`` header: "basic authentication is disabled".
    """
    text = _KEY.sub("…", text)
    return _without_local_parts(_PASSWORD.sub(r"\1:…@", text)) if _AT.search(text) else text


# Both go from one @ to the next and look back no further than the one before: the cost is linear in whatever is sent.


def _without_addresses(text: str) -> str:
    kept, end = [], 0
    for at in _AT.finditer(text):
        head = text[end : at.start()]
        domain = _DOMAIN.match(text, at.end())
        start = _start_of_local_part(head, _LOCAL_REVERSED)
        if domain is None or start == len(head):
            kept.append(text[end : at.end()])
            end = at.end()
        else:
            kept += [head[:start], "[address]"]
            end = domain.end()
    return "".join([*kept, text[end:]])


def _without_local_parts(text: str) -> str:
    *heads, tail = _AT.split(text)
    return "@".join([head[: _start_of_local_part(head, _LOCAL_REVERSED_IN_ANSWERS)] + "…" for head in heads] + [tail])


def _start_of_local_part(head: str, local_reversed: re.Pattern[str]) -> int:
    """Where the local part at the end of ``head`` begins, which is what stands before an ``@``."""
    if head.endswith('"') and (opening := head.rfind('"', 0, -1)) >= 0:
        return opening
    found = local_reversed.match(head[::-1])
    return len(head) - (found.end() if found else 0)
