"""Parse form data in chunks; of files only size and digest are kept.

Strict where RFC 7578 and RFC 2046 are (CRLF line breaks, a closing boundary); text before the first part and after the
last one is ignored.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

HEAD_BYTES = 16 * 1024  # of the lines above a part's content; ours have under 500
KEPT = {"message": 25 * 1024 * 1024, "mime": 256 * 1024}  # bytes that are kept of these parts; of a file, none

_boundary = re.compile(r"^multipart/form-data *;.*?\bboundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_parameter = re.compile(r";\s*(name|filename)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^;\s]+))", re.IGNORECASE)
_encoded_name = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)


class Malformed(Exception):
    """This is not valid form data."""


@dataclass(slots=True)
class Part:
    """One part: the names in its head, how many bytes it has and their SHA-256, and what is kept of them."""

    name: str
    filename: str | None
    content_type: str
    kept: bytearray = field(default_factory=bytearray)
    size: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def digest(self) -> str:
        return str(self._digest.hexdigest())

    def shown(self) -> dict[str, Any]:
        """All but what it held."""
        names = ("name", "filename", "content_type", "size", "digest")
        return {name: getattr(self, name) for name in names}

    def take(self, data: bytes) -> None:
        self.size += len(data)
        self._digest.update(data)
        room = KEPT.get(self.name, 0) - len(self.kept)
        if room > 0:
            self.kept += data[:room]


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises `Malformed`."""
    found = _boundary.match(content_type)
    if found is None:
        raise Malformed("the boundary is missing")
    return (found[1] or found[2]).encode("latin-1", "replace")


class Form:
    """The parts of one body, parsed as it arrives. Raises `Malformed`."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[Part] = []
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # so that the first boundary looks like the others
        self._read = self._preamble

    def feed(self, data: bytes) -> None:
        """The next piece of the body."""
        self._buffer += data
        while self._read():
            pass

    def close(self) -> list[Part]:
        """The body is over: its parts."""
        if self._read != self._epilogue:
            raise Malformed("the closing boundary is missing")
        return self.parts

    def _preamble(self) -> bool:
        found = self._until_delimiter()
        if found is None:
            return False
        self._read = self._line
        return True

    def _line(self) -> bool:
        """The rest of a boundary's line: nothing, or the two dashes that close the form."""
        if self._buffer.startswith(b"--"):
            self._read = self._epilogue
            return True
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return self._wait_for(2, "a boundary's line goes on")
        if bytes(self._buffer[:end]).strip(b" \t"):
            raise Malformed("a boundary's line goes on")
        del self._buffer[:end]  # its line break may be the one that ends an empty head
        self._read = self._head
        return True

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return self._wait_for(HEAD_BYTES, "a part's head is too long")
        self.parts.append(_part(bytes(self._buffer[:end]).decode("utf-8", "replace")))
        del self._buffer[: end + 2]  # an empty content ends with this line break
        self._read = self._content_start
        return True

    def _content_start(self) -> bool:
        if len(self._buffer) < len(self._delimiter):
            return False
        if self._buffer.startswith(self._delimiter):
            del self._buffer[: len(self._delimiter)]
            self._read = self._line
        else:
            del self._buffer[:2]
            self._read = self._content
        return True

    def _content(self) -> bool:
        part, found = self.parts[-1], self._until_delimiter()
        if found is not None:
            part.take(found)
            self._read = self._line
            return True
        ready = len(self._buffer) - len(self._delimiter) + 1
        if ready > 0:
            part.take(bytes(self._buffer[:ready]))
            del self._buffer[:ready]
        return False

    def _epilogue(self) -> bool:
        self._buffer.clear()
        return False

    def _until_delimiter(self) -> bytes | None:
        end = self._buffer.find(self._delimiter)
        if end < 0:
            return None
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(self._delimiter)]
        return found

    def _wait_for(self, most: int, otherwise: str) -> bool:
        if len(self._buffer) > most:
            raise Malformed(otherwise)
        return False


def _part(head: str) -> Part:
    lines = dict(line.split(":", 1) for line in head.split("\r\n") if ":" in line)
    headers = {name.strip().lower(): value.strip() for name, value in lines.items()}
    disposition = headers.get("content-disposition", "")
    found = {name.lower(): _unquoted(quoted, bare) for name, quoted, bare in _parameter.findall(disposition)}
    if not disposition.lower().startswith("form-data") or not found.get("name"):
        raise Malformed("a part has no name")
    encoded = _encoded_name.search(disposition)
    filename = unquote(encoded[1]) if encoded else found.get("filename")
    return Part(found["name"], filename, headers.get("content-type", "text/plain"))


def _unquoted(quoted: str, bare: str) -> str:
    return bare or re.sub(r"\\(.)", r"\1", quoted)
