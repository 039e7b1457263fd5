"""Ids: of jobs, batches and attempts (random, ordered by time), and of lanes (derived from application and grant)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from operator import attrgetter
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import NotFound

# The order of UUIDs, here and in PostgreSQL: as a sort key it is faster than comparing the UUIDs.
number = attrgetter("int")

_RANDOM_BITS = 62

# Ids that are made together count up from one time: so many end a quarter of a millisecond after it.
_AT_ONCE = 1_000
_lock = threading.Lock()
_last = 0


def new_id() -> UUID:
    """A UUID of version 7 (RFC 9562, section 5.7): sorted by creation time, strictly so within one process.

    The 12 bits after the milliseconds are their fraction (method 3 of section 6.2). Ids of the same moment count up, so
    that ids are in the order of arrival, even within one call.
    """
    return _id_of(_stamps(1), os.urandom(8))


def new_ids(count: int) -> Iterator[UUID]:
    """So many ids, as `new_id` would make them one after the other, at less cost."""
    for first in range(0, count, _AT_ONCE):
        yield from _ids(min(_AT_ONCE, count - first))


def _ids(count: int) -> list[UUID]:
    stamp, random = _stamps(count), os.urandom(8 * count)
    return [_id_of(stamp + at, random[8 * at : 8 * at + 8]) for at in range(count)]


def _stamps(count: int) -> int:
    """The first of so many stamps in a row that no other id has."""
    global _last
    now = time.time_ns()
    stamp = (now // 1_000_000 << 12) | (now % 1_000_000 * 4096 // 1_000_000)
    with _lock:
        stamp = max(stamp, _last + 1)
        _last = stamp + count - 1
    return stamp


def _id_of(stamp: int, random: bytes) -> UUID:
    milliseconds, fraction = stamp >> 12, stamp & 0xFFF
    tail = int.from_bytes(random, "big") >> (64 - _RANDOM_BITS)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail)


def first_id(at: Micros) -> UUID:
    """The smallest possible id of ``at`` or later: rows newer than a time are a range of ids."""
    return UUID(int=(max(0, at) // 1_000) << 80 | 0x7 << 76 | 0b10 << 62)


def lane_id(application: str, grant_id: str) -> UUID:
    """The id of the lane of one (application, grant).

    Derived, so that enqueue can name a lane without reading or writing its row. 122 bits of BLAKE2b make collisions
    impossible in practice. Version 8 (RFC 9562, section 5.8) is for custom formats.
    """
    digest = blake2b(f"{application}\0{grant_id}".encode(), digest_size=16, person=b"sendq lane").digest()
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


def valid_id(value: str) -> UUID | None:
    """An id that a caller passed; None: it is not a valid one, and nothing can have it."""
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        return None


def parse_id(value: str | UUID, *, what: str) -> UUID:
    """An id that a caller passed. Raises `NotFound` if it is not a valid id, because nothing can have it."""
    if isinstance(value, UUID):
        return value
    found = valid_id(value)
    if found is None:
        raise NotFound(f"there is no {what} {value!r}: ids look like 0192f0c1-2f3e-7c4d-9a5b-0123456789ab")
    return found
