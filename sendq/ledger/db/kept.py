"""The connection of an application's last send, kept for its next one.

SQLAlchemy takes as long to check a connection out of its pool and in again as the server takes for a send. So the one
that was used last stays checked out. It is one of the pool's: all limits count it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection, Engine

from sendq.ledger.db.engine import still_lives, translated
from sendq.ledger.db.waiting import may_be_closed

T = TypeVar("T")


class KeptConnection:
    """Runs transactions on an engine of `open_callers_engine` for psycopg. Thread-safe.

    Threads that run transactions at the same time get connections of the pool.
    """

    def __init__(self, engine: Engine, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._monotonic = monotonic
        # With the time of its last use; popped and appended, since each of the two is atomic.
        self._idle: list[tuple[Connection, float]] = []

    def write(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in a new transaction, as `sendq.ledger.db.engine.writing` does."""
        with translated():
            connection = self._taken()
            try:
                connection.begin()
                result = action(connection)
                connection.commit()
            except BaseException:
                connection.close()  # rolls back
                self.close()  # if the server will go on refusing, the pool has left it
                raise
            if self._idle:
                connection.close()
            else:
                self._idle.append((connection, self._monotonic()))
            return result

    def close(self) -> None:
        """Return it to the pool; the next transaction takes another one."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()

    def forget(self) -> None:
        """In a child process: leave the parent's connection alone."""
        self._idle.clear()

    def _taken(self) -> Connection:
        try:
            connection, used_at = self._idle.pop()
        except IndexError:
            return self._engine.connect()
        driver_connection, unused_s = connection.connection.driver_connection, self._monotonic() - used_at
        if still_lives(self._engine, driver_connection, unused_s, look=may_be_closed):
            return connection
        connection.invalidate()
        connection.close()
        return self._engine.connect()
