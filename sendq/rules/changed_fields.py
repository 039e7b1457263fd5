"""Which fields of a message a job changes, as bits that a query can compare. Pure.

Two changes that share a field are made in the order in which they were enqueued.
"""

from __future__ import annotations

from collections.abc import Iterable

BITS = {"unread": 1, "starred": 2, "folders": 4, "metadata": 8}

# A deletion changes every field.
EVERY_FIELD = sum(BITS.values())


def bits_of(names: Iterable[str]) -> int:
    """The bits of some fields."""
    return sum(BITS[name] for name in names)
