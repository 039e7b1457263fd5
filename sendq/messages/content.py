"""The bytes of an attachment, from any source, read in chunks and never all at once.

    Content.of(b"…")                  bytes stay where they are
    Content.of(Path("offer.pdf"))     read when it is enqueued, in chunks
    Content.of(open("…", "rb"))       read in chunks from its position; if it cannot seek, it is kept in memory

A content is measured first (size and digest), and read again only if the ledger does not have it yet. If it changes in
between, this is detected and nothing is stored. Several messages may share a content.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple
from uuid import UUID

from sendq.errors import InvalidJob, Problem

# Bytes of one stored chunk. A multiple of three, so that the base64 of the chunks is the base64 of the whole. Small
# enough that a worker holds little for each call, large enough that a query is worth its round trip.
CHUNK = 196_608

# The limit of any request; larger contents are not read to their end. Nylas says 25 MB, and not whether that is 10^6 or
# 2^20 bytes each: this is the smaller.
MOST_BYTES = 25_000_000

_NO_BYTES = ("does not return bytes", "open it with mode 'rb'; for an asyncio file, pass the underlying file")
_READ_AGAIN = "do not change the file while it is being enqueued"
_EXPECTED = "pass bytes, a pathlib.Path, or a file opened with mode 'rb'"


class Measure(NamedTuple):
    """``size`` in bytes and ``digest`` (SHA-256). Above `MOST_BYTES`, a lower bound of the size, and no digest."""

    size: int
    digest: bytes


class StoredPiece(NamedTuple):
    """A content as the ledger keeps it for a request, and the bytes of the request that follow it; opened."""

    content_id: UUID
    digest: bytes  # of the content
    size: int
    after: bytes


def chunk_count(size: int) -> int:
    """Into how many chunks a content of ``size`` bytes is cut."""
    return -(-size // CHUNK)


class ContentFault(Exception):
    """A content cannot be read: ``reason`` and ``remedy``, which do not show any of it."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(reason)


class Content:
    """Bytes that can be read repeatedly. Created by `of`; safe to share between threads."""

    __slots__ = ("_kept", "_lock", "_measure", "_source", "_stamp", "_start")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._lock = RLock()
        self._measure: Measure | None = None
        self._stamp: tuple[int, ...] | None = None
        self._start = 0  # the position of a file object
        self._kept: list[bytes] | None = None  # what was read from a file object that cannot seek

    @classmethod
    def of(cls, given: object) -> Content:
        """``given`` itself, or one from bytes, a path or a binary file object. Raises `InvalidJob`."""
        if isinstance(given, Content):
            return given
        if isinstance(given, bytes | bytearray | memoryview):
            return cls(bytes(given))
        if isinstance(given, os.PathLike):
            return cls(Path(given))
        if callable(getattr(given, "read", None)):
            return cls(given)
        reason = (
            "is a string, which could mean a path or the text itself"
            if isinstance(given, str)
            else "is not file content"
        )
        raise InvalidJob([Problem("", reason, _EXPECTED)])

    def measure(self) -> Measure:
        """Size and digest. Reads the content once, and again only if the file at a path has changed.

        Raises `ContentFault`.
        """
        if self._measure is not None and isinstance(self._source, bytes):
            return self._measure
        with self._lock, _as_faults():
            stamp = self._stamp_now()
            if self._measure is None or stamp != self._stamp:
                self._measure, self._stamp = self._read_through(stamp), stamp
            return self._measure

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of `CHUNK` bytes, the last shorter. Raises `ContentFault`, also if it has changed."""
        measure = self.measure()
        digest = hashlib.sha256()
        with _as_faults():
            for chunk in self._raw():
                digest.update(chunk)
                yield chunk
        if digest.digest() != measure.digest:
            raise ContentFault("changed while it was being read", _READ_AGAIN)

    def head(self) -> bytes:
        """Its first chunk. Raises `ContentFault`."""
        with _as_faults():
            return next(self._raw(), b"")

    def _stamp_now(self) -> tuple[int, ...] | None:
        """Identifies the state of a file; None for other sources."""
        if not isinstance(self._source, Path):
            return None
        found = self._source.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ContentFault("is not a file but a pipe, a socket or a device", "pass a file, or the bytes")
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read_through(self, stamp: tuple[int, ...] | None) -> Measure:
        if stamp is not None and stamp[1] > MOST_BYTES:
            return Measure(stamp[1], b"")
        self._prepare()
        size, digest = 0, hashlib.sha256()
        for chunk in self._raw():
            size += len(chunk)
            if size > MOST_BYTES:
                return Measure(size, b"")
            digest.update(chunk)
        return Measure(size, digest.digest())

    def _prepare(self) -> None:
        """Remember the position of a file object, or, if it cannot seek, its content."""
        source = self._source
        if isinstance(source, bytes | Path) or self._kept is not None:
            return
        if callable(getattr(source, "seekable", None)) and source.seekable():
            self._start = source.tell()
            if self._start and not source.read(1):
                raise ContentFault("is at its end", "call seek(0) first")
            return
        self._kept, size = [], 0
        for chunk in _pieces(source.read):
            self._kept.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                break

    def _raw(self) -> Iterator[bytes]:
        source = self._source
        if isinstance(source, bytes):
            yield from (source[at : at + CHUNK] for at in range(0, len(source), CHUNK))
        elif isinstance(source, Path):
            with open(source, "rb", buffering=0, opener=_at_once) as file:
                yield from _pieces(file.read)
        elif self._kept is not None:
            yield from self._kept
        else:
            yield from _pieces(self._from(self._start))

    def _from(self, at: int) -> Callable[[int], bytes]:
        """A function that reads on from our own position, whatever else reads from the file object meanwhile."""

        def read(most: int) -> bytes:
            nonlocal at
            with self._lock:
                self._source.seek(at)
                piece: bytes = self._source.read(most)
            at += len(piece)
            return piece

        return read

    def __reduce__(self) -> tuple[type[Content], tuple[Any]]:
        return Content, (self._source,)

    def __repr__(self) -> str:
        return "Content(…)"


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for another process, in case a pipe has taken the place of the file."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _pieces(read: Callable[[int], Any]) -> Iterator[bytes]:
    """What ``read`` returns, in pieces of `CHUNK`: an unbuffered file may return less than requested."""
    while True:
        gathered: list[bytes] = []
        wanted = CHUNK
        while wanted and (piece := read(wanted)):
            if not isinstance(piece, bytes | bytearray | memoryview):
                if isinstance(piece, Coroutine):
                    piece.close()  # or Python warns that it was never awaited
                raise ContentFault(*_NO_BYTES)
            gathered.append(bytes(piece))
            wanted -= len(piece)
        if gathered:
            yield gathered[0] if len(gathered) == 1 else b"".join(gathered)
        if wanted:
            return


@contextmanager
def _as_faults() -> Iterator[None]:
    """Turn the errors of a file that cannot be read into `ContentFault`, without the file's name."""
    try:
        yield
    except OSError as error:
        raise ContentFault(f"cannot be read ({type(error).__name__})", "check its path and permissions") from None
    except UnicodeError:
        raise ContentFault(*_NO_BYTES) from None
    except ValueError:
        raise ContentFault("cannot be read: the file is closed", "keep it open until the call returns") from None
