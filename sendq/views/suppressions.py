"""Suppression lists, as applications and operators see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

# Entries that are counted, the latest: some ten milliseconds.
COUNT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Suppression:
    """A recipient who gets no more mail of an application, or none of a category (None: no mail at all).

    ``digest`` (32 hexadecimal digits) recognises the address without showing it. ``source``: the notification's type,
    ``one-click``, or who added it.
    """

    application: str
    digest: str
    category: str | None
    reason: str
    at: datetime
    source: str


@dataclass(frozen=True, slots=True)
class SuppressionCount:
    """Entries of an application's list that have a category (None: all mail) and a reason in common."""

    application: str
    category: str | None
    reason: str
    number: int
    oldest: datetime
    newest: datetime
