"""Time as the ledger stores it: whole microseconds since 1970, UTC.

Integers compare, sort and index the same on PostgreSQL and SQLite, with every driver. The public interface uses
datetimes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Micros = int
Clock = Callable[[], Micros]

SECOND: Micros = 1_000_000

_MICROSECOND = timedelta(microseconds=1)


def now() -> Micros:
    """The wall clock of this machine."""
    return time.time_ns() // 1_000


def micros(moment: datetime) -> Micros:
    """An aware datetime as microseconds."""
    seconds = int(moment.timestamp() // 1)
    return seconds * SECOND + moment.microsecond


def moment(at: Micros) -> datetime:
    """Microseconds as an aware datetime in UTC."""
    return datetime.fromtimestamp(at // SECOND, UTC).replace(microsecond=at % SECOND)


def micros_in(duration: timedelta) -> Micros:
    """A duration as microseconds."""
    return duration // _MICROSECOND


def seconds(duration: float) -> Micros:
    """A duration in seconds as microseconds."""
    return round(duration * SECOND)
