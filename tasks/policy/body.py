"""The body of an answer: JSON in any state, or text, always bounded, never an exception. Pure.

Bodies come from outside, so each is cut before anything looks at it: what a body costs does not grow with what a server
sends. An answer is read on the event loop, which all calls of a worker share.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from itertools import islice
from typing import Any

# The answer to a send repeats the message, so an honest body can be as large as the largest request (3 MB) and its
# escapes; whatever is longer is cut, and read as text.
JSON_BYTES = 4 * 1024 * 1024
ERROR_BYTES = 512 * 1024  # of an error; real ones have a few thousand
TEXT_BYTES = 16 * 1024  # a page of a proxy says all that it has to say in its head
LEAVES = 200  # strings taken from one document; a real error has under twenty
NODES = 2_000  # places looked at while taking them
LEAF_CHARS = 4_000
LEAVES_CHARS = 8_000  # of all strings together; the longest real error seen is under 4,000
# Values of an answer to one request: a message to 500 recipients has about 4,000. Reading 20,000 takes about 5 ms.
VALUES = 20_000
_COUNTED_BYTES = 64 * 1024  # smaller bodies cannot hold many more values than that

_BOM = b"\xef\xbb\xbf"

_TITLE = re.compile(r"<(title|h1)[^<>]{0,200}>([^<]{1,500})", re.IGNORECASE)
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

    ``document`` is the JSON object, None if the body is none; ``raw`` is the text (its first `TEXT_BYTES`) where there
    is no document. ``too_long``: it has more bytes or values than are read.
    """

    document: dict[str, Any] | None
    raw: str
    too_long: bool = False

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


def read_body(body: bytes, *, most: int = JSON_BYTES, values: int | None = None) -> Body:
    """Read bytes as JSON if they can be, else as text. A body that was left compressed is unpacked first.

    Of JSON with more than ``most`` bytes, or about ``values`` values or more, the beginning is taken for text.
    """
    data = _unpack(body, most)[: most + 1]
    document: Any = None
    is_json = _looks_like_json(data)
    too_long = len(data) > most or bool(values and is_json and _has_more_values(data, values))
    if is_json and not too_long:
        try:
            document = _document_of(_text_of(data))
        except (ValueError, RecursionError):
            document = None
    if isinstance(document, str):
        return Body(None, cut(document, TEXT_BYTES))
    if not isinstance(document, dict):
        return Body(None, cut(_text_of(data[: TEXT_BYTES + 1]), TEXT_BYTES), too_long)
    return Body(document, "")


def cut(text: str, chars: int) -> str:
    """The first characters of a text. A word that is cut in two goes, for it may be the first part of an address."""
    if len(text) <= chars:
        return text
    head = text[:chars]
    if head.count('"') % 2:
        head = head[: head.rfind('"')]
    return head[: len(head) - _length_of_last_word(head)]


def _length_of_last_word(text: str) -> int:
    return len(text) - max((text.rfind(end) for end in ' \t\r\n@<>(),;:"'), default=-1) - 1


def _looks_like_json(data: bytes) -> bool:
    return data[:64].removeprefix(_BOM).lstrip()[:1] in (b"{", b"[", b'"')


def _text_of(data: bytes) -> str:
    return data.removeprefix(_BOM).decode("utf-8", "replace")


def _has_more_values(data: bytes, limit: int) -> bool:
    """Whether JSON holds more than about that many values, judged by what separates them outside of strings."""
    if len(data) <= _COUNTED_BYTES or _marks(data) <= limit:
        return False
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * limit:
        return True
    outside = b"".join(plain.split(b'"')[::2])
    return _marks(outside) > limit


def _marks(data: bytes) -> int:
    return sum(data.count(mark) for mark in (b",", b"[", b"{"))


def _unpack(body: bytes, most: int) -> bytes:
    if body[:2] != b"\x1f\x8b":
        return body
    try:
        return zlib.decompressobj(wbits=31).decompress(body, most + 1)
    except zlib.error:
        return body


def _integer(digits: str) -> int | str:
    """A number of a thousand digits stays text: Python refuses to convert it, and nobody means it."""
    return int(digits) if len(digits) <= 20 else digits


# `json.loads` would make a decoder for each body.
_document_of = json.JSONDecoder(parse_int=_integer, strict=False).decode


def _walk(root: Any) -> tuple[list[str], tuple[float, ...]]:
    """Strings and stated waits below ``root``, in document order, without recursion and within bounds."""
    leaves: list[str] = []
    waits: list[float] = []
    stack: list[tuple[str, Any]] = [("", root)]
    nodes = chars = 0
    while stack and nodes < NODES and len(leaves) < LEAVES and chars < LEAVES_CHARS:
        nodes += 1
        key, value = stack.pop()
        if isinstance(value, dict):
            stack += reversed(list(islice(value.items(), NODES)))
        elif isinstance(value, list):
            stack += [(key, item) for item in reversed(value[:NODES])]
        elif isinstance(value, str) and value:
            leaves.append(cut(value, LEAF_CHARS))
            chars += len(leaves[-1])
        elif isinstance(value, int) and 100 <= value <= 999:
            leaves.append(str(value))
        unit = _WAIT_KEYS.get(key[:40].lower().replace("_", "").replace("-", "")) if key else None
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
