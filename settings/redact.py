"""Takes out of a text what no log and no report may hold: addresses of people, keys, passwords.

The second line of defence: errors and events of this code name fields and carry ids. But an exception of a library
may quote what it was given, and a provider's answer may quote a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Greedy on purpose: what looks like an address goes, at the price of a host's name in `celery@worker.example.com`.
# The lengths bound the work on a long text without blanks.
_ADDRESS = re.compile(r"[^\s@<>\"'(),:;\[\]{}=|/\\]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}")
_PASSWORD = re.compile(r"(://[^\s:/?#@]{0,256}):[^\s]{1,512}@")
_KEY = re.compile(r"\bnyk_[\w-]+|(?i:\b(bearer|basic)\s+)[\w.~+/=-]{8,}")


def redact(text: str) -> str:
    """The text with addresses, keys and passwords replaced by words that say what stood there."""
    if "@" in text:
        text = _ADDRESS.sub("[address]", _PASSWORD.sub(r"\1:[password]@", text))
    return _KEY.sub("[key]", text)


def redact_all(value: Any) -> Any:
    """The same for every text in a structure of mappings, lists and tuples; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(each) for each in value]
    return value
