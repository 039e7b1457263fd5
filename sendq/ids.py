"""Ids: of jobs, batches, attempts (random, in order of time) and of lanes (derived from what they stand for)."""

from __future__ import annotations

import os
import threading
import time
from hashlib import blake2b
from operator import attrgetter
from uuid import UUID

from sendq.clock import Micros
from sendq.errors import NotFound

# What UUIDs are ordered by, here and in PostgreSQL: a key to sort many by, quicker than comparing them themselves.
number = attrgetter("int")

_RANDOM_BITS = 62
_lock = threading.Lock()
_last = 0


def new_id() -> UUID:
    """A UUID of version 7 (RFC 9562, section 5.7): sorts by the time it was made, in one process strictly.

    The 12 bits behind the millisecond are the fraction of it (method 3 of section 6.2); two ids that would tie are
    kept apart by counting on, so that "arrival order" inside one call is the order of the ids.
    """
    global _last
    now = time.time_ns()
    stamp = (now // 1_000_000 << 12) | (now % 1_000_000 * 4096 // 1_000_000)
    with _lock:
        _last = stamp = max(stamp, _last + 1)
    tail = int.from_bytes(os.urandom(8), "big") >> (64 - _RANDOM_BITS)
    milliseconds, fraction = stamp >> 12, stamp & 0xFFF
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail)


def first_id(at: Micros) -> UUID:
    """The least of the ids made at ``at`` or later: what is newer than a time is a range of ids."""
    return UUID(int=(max(0, at) // 1_000) << 80 | 0x7 << 76 | 0b10 << 62)


def lane_id(application: str, grant_id: str) -> UUID:
    """The id of the lane of one (application, grant).

    Derived, so that enqueue can name a lane without reading or writing its row. 122 bits of BLAKE2b: no two grants
    meet by accident. Version 8 (RFC 9562, section 5.8) marks it as our own recipe.
    """
    digest = blake2b(f"{application}\0{grant_id}".encode(), digest_size=16, person=b"sendq lane").digest()
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


def parse_id(value: str | UUID, *, what: str) -> UUID:
    """An id that a caller gave. Raises `NotFound` for what cannot be one: nothing has that id."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise NotFound(f"there is no {what} {value!r}: ids look like 0192f0c1-2f3e-7c4d-9a5b-0123456789ab") from None
