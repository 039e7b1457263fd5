"""The body of an answer, read with patience: JSON in any state, or text, always bounded, never an exception. Pure."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from typing import Any

# The answer to a send repeats the message, so an honest body can be as large as the largest request (3 MB) and its
# escapes; whatever is longer is cut, and read as text.
JSON_BYTES = 4 * 1024 * 1024
TEXT_BYTES = 64 * 1024
LEAVES = 200  # strings taken from one document; a real error has under twenty
NODES = 2_000  # places looked at while taking them
LEAF_CHARS = 4_000

_TITLE = re.compile(r"<(title|h1)[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,500}>")
# Names under which providers state a wait as data, with the seconds in one unit of it (Graph, EWS, Google RPC).
_WAIT_KEYS = {
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retrydelay": 1.0,
    "retryafterms": 0.001,
    "backoffmilliseconds": 0.001,
}


@dataclass(frozen=True, slots=True)
class Body:
    """A body as far as it can be read.

    ``document`` is the JSON object, None if the body is none; ``raw`` is the text (its first 64 KiB) where there is no
    document.
    """

    document: dict[str, Any] | None
    raw: str

    def leaves(self, value: Any) -> list[str]:
        """All strings (and three-digit numbers: codes) below ``value``, in document order, bounded."""
        return _walk(value)[0]

    def waits(self) -> tuple[float, ...]:
        """The waits in seconds that the document states as data."""
        return _walk(self.document)[1]

    def plain(self) -> str:
        """The text for people: of HTML its title and headings, or else its first words.

        A page is written by a proxy or a firewall: what else it says (that "requests per minute" are limited, that a
        "token" is missing) is not about the account.
        """
        if "<" not in self.raw:
            return self.raw
        heads = dict.fromkeys(match[2].strip() for match in _TITLE.finditer(self.raw))
        return " ".join(heads) or _TAG.sub(" ", self.raw)


def read_body(body: bytes) -> Body:
    """Read bytes as JSON if they can be, else as text. A body that was left compressed is unpacked first."""
    data = _unpack(body)[: JSON_BYTES + 1]
    text = data.decode("utf-8-sig", "replace") if len(data) <= JSON_BYTES else ""
    document: Any = None
    if text.lstrip()[:1] in ("{", "[", '"'):
        try:
            document = json.loads(text, parse_int=_integer, strict=False)
        except (ValueError, RecursionError):
            document = None
    if isinstance(document, str):
        return Body(None, document[:TEXT_BYTES])
    if not isinstance(document, dict):
        return Body(None, data[:TEXT_BYTES].decode("utf-8-sig", "replace"))
    return Body(document, "")


def _unpack(body: bytes) -> bytes:
    if body[:2] != b"\x1f\x8b":
        return body
    try:
        return zlib.decompressobj(wbits=31).decompress(body, JSON_BYTES + 1)
    except zlib.error:
        return body


def _integer(digits: str) -> int | str:
    """A number of a thousand digits stays text: Python refuses to convert it, and nobody means it."""
    return int(digits) if len(digits) <= 20 else digits


def _walk(root: Any) -> tuple[list[str], tuple[float, ...]]:
    """Strings and stated waits below ``root``, in document order, without recursion and within bounds."""
    leaves: list[str] = []
    waits: list[float] = []
    stack: list[tuple[str, Any]] = [("", root)]
    nodes = 0
    while stack and nodes < NODES and len(leaves) < LEAVES:
        nodes += 1
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += reversed(list(value.items())[:NODES])
        elif isinstance(value, list):
            stack += [(key, item) for item in reversed(value[:NODES])]
        elif isinstance(value, str) and value:
            leaves.append(value[:LEAF_CHARS])
        elif isinstance(value, int) and 100 <= value <= 999:
            leaves.append(str(value))
        unit = _WAIT_KEYS.get(key.lower().replace("_", "").replace("-", "")) if key else None
        if unit is not None and (wait := _seconds(value)) is not None:
            waits.append(wait * unit)
    return leaves, tuple(waits)


def _seconds(value: Any) -> float | None:
    """A number, or one in a string with an optional ``s`` behind it (``34.07s``)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value[:32].removesuffix("s") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
