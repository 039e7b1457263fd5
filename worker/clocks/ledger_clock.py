"""The ledger's clock, which all workers use.

Machines' clocks differ, and one that is an hour ahead would postpone jobs by an hour in the shared ledger. So a worker
queries PostgreSQL's time with every heartbeat, and in between adds the time elapsed on a clock that cannot be set (and
that includes suspension). With SQLite, which is on the same machine, and before the first query, it is the machine's
own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection

from sendq import clock
from sendq.clock import Micros
from sendq.ledger.db.signals import server_time


def since_boot() -> int:
    """Nanoseconds since the machine started, including the time it was suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LedgerClock:
    """A `sendq.clock.Clock`. Thread-safe: its state is one tuple, replaced as a whole."""

    def __init__(
        self,
        *,
        elapsed: Callable[[], int] = since_boot,
        server: Callable[[Connection], Micros | None] = server_time,
    ) -> None:
        self._elapsed, self._server = elapsed, server
        self._known: tuple[Micros, int] | None = None

    def __call__(self) -> Micros:
        if self._known is None:
            return clock.now()
        at, then = self._known
        return at + (self._elapsed() - then) // 1_000

    def ask(self, connection: Connection) -> None:
        """Query the ledger's time."""
        asked = self._elapsed()
        at = self._server(connection)
        if at is not None:
            self._known = (at, (asked + self._elapsed()) // 2)
