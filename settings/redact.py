"""Remove addresses of people, keys and passwords from texts for logs and reports.

This is the second line of defence. Errors and events of this code name fields and ids only, but a library's exception
may quote its input, and a provider's answer may quote a recipient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Greedy on purpose: everything that looks like an address is removed, even the host in `celery@worker.example.com`.
# The lengths bound the work on a long text without spaces.
_ADDRESS = re.compile(r"[^\s@<>\"'(),:;\[\]{}=|/\\]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,10}")
_PASSWORD = re.compile(r"(://[^\s:/?#@]{0,256}):[^\s]{1,512}@")
_KEY = re.compile(r"\bnyk_[\w-]+|(?i:\b(bearer|basic)\s+)[\w.~+/=-]{8,}")


def redact(text: str) -> str:
    """The text with addresses, keys and passwords replaced by a placeholder that names their kind."""
    if "@" in text:
        text = _ADDRESS.sub("[address]", _PASSWORD.sub(r"\1:[password]@", text))
    return _KEY.sub("[key]", text)


def redact_all(value: Any) -> Any:
    """``redact`` every text in a structure of mappings, lists and tuples; the keys of mappings are kept."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(each) for each in value]
    return value
