"""The time that a worker goes by: the ledger's.

Machines disagree about the time, and one that is an hour ahead would put off what waits for an hour, in a ledger that
it shares with others. So a worker asks PostgreSQL for the time with every beat, and counts on by itself from there, on
a clock that nobody sets (it counts on while the machine is suspended). SQLite lives on the same machine: there, and
until PostgreSQL was asked, it is the machine's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, text

from sendq import clock
from sendq.clock import Micros

_ASK = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")


def since_boot() -> int:
    """Nanoseconds since the machine was started, the time that it was suspended among them."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LedgerClock:
    """A `sendq.clock.Clock`. Thread-safe: what was learnt is one tuple, replaced as a whole."""

    def __init__(self, *, elapsed: Callable[[], int] = since_boot) -> None:
        self._elapsed = elapsed
        self._learnt: tuple[Micros, int] | None = None

    def __call__(self) -> Micros:
        if self._learnt is None:
            return clock.now()
        at, then = self._learnt
        return at + (self._elapsed() - then) // 1_000

    def ask(self, connection: Connection) -> None:
        """Learn the time of the ledger."""
        if connection.dialect.name == "postgresql":
            asked = self._elapsed()
            at = connection.execute(_ASK).scalar_one()
            self._learnt = (at, (asked + self._elapsed()) // 2)
