"""A connection to the ledger that is kept from one short transaction to the next.

SQLAlchemy takes as long to check a connection out of its pool and in again as the server takes for a short statement.
So an application's sends, the dispatcher and the recorder keep the one that they used last. It is one of the pool's:
all limits count it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from sqlalchemy import Connection, Engine

from sendq.ledger.db.engine import Look, still_lives, translated

T = TypeVar("T")


class KeptConnection:
    """Runs transactions on an engine of this package (`sendq.ledger.db.engine`). Thread-safe.

    Threads that run transactions at the same time get connections of the pool.
    """

    def __init__(
        self, engine: Engine, *, look: Look | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``look``: as for `still_lives`."""
        self._engine, self._look, self._monotonic = engine, look, monotonic
        # With the time of its last use; popped and appended, since each of the two is atomic.
        self._idle: list[tuple[Connection, float]] = []

    def write(self, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in a new transaction, as `sendq.ledger.db.engine.writing` does."""
        with self.writing() as connection:
            return action(connection)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A new transaction, as `sendq.ledger.db.engine.writing`."""
        with translated(), self.begin() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A new transaction, as SQLAlchemy's ``Engine.begin``: raises its exceptions."""
        connection = self._taken()
        try:
            connection.begin()
            yield connection
            connection.commit()
        except BaseException:
            _roll_back(connection)
            self.close()  # if the server will go on refusing, the pool has left it
            raise
        if self._idle:
            connection.close()
        else:
            self._idle.append((connection, self._monotonic()))

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
        if still_lives(self._engine, driver_connection, unused_s, look=self._look):
            return connection
        connection.invalidate()
        connection.close()
        return self._engine.connect()


def _roll_back(connection: Connection) -> None:
    """Return a connection whose transaction failed to the pool."""
    try:
        connection.close()
    except Exception:
        # A signal's handler, say, has broken off the wait for an answer: until that comes, nothing else can be sent.
        if not connection.closed:
            connection.invalidate()
            connection.close()
