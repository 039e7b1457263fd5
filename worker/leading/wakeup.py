"""How the dispatcher learns that somebody committed something for it, while it sleeps.

PostgreSQL rings (NOTIFY), if a connection of the worker's own can listen: not through PgBouncer in transaction mode.
SQLite cannot ring, but tells for a few microseconds of CPU whether anybody has written (``PRAGMA data_version``), so
it is looked at often. The dispatcher's own poll is the net under both.
"""

from __future__ import annotations

import contextlib
import os
import select
import sqlite3
import time
from typing import Any, Protocol

import psycopg
from sqlalchemy import Engine

from sendq.clock import Micros, seconds
from sendq.ledger.enqueue import CHANNEL

# Half of this on average is what a commit waits for; a hundredth of a second would cost 1 % of a core for ever.
SQLITE_LOOK_S = 0.03


class Wakeup(Protocol):
    """Waits until it is rung or the time is over."""

    @property
    def rings(self) -> bool:
        """Whether commits ring it when they are asked to."""

    @property
    def look_every(self) -> Micros:
        """How long at most to wait in one go where they do not."""

    def wait(self, limit_s: float) -> None:
        """Return when it is rung, or after the limit."""

    def ring(self) -> None:
        """Ring it from this process; from any thread."""

    def close(self) -> None:
        """Give up what it holds."""


class _Pipe:
    """Rings from within this process."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it has been rung often enough
            os.write(self._write, b"!")

    def _wait_for(self, others: list[int], limit_s: float) -> list[int]:
        ready, _, _ = select.select([self._read, *others], [], [], limit_s)
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return ready

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class PostgresWakeup(_Pipe):
    """Listens on a connection of its own; without one (a pooler, an outage) the poll has to do."""

    look_every = seconds(0.05)

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._connection: Any = None
        self._retry_at = 0.0

    @property
    def rings(self) -> bool:
        return self._listening() is not None

    def wait(self, limit_s: float) -> None:
        connection = self._listening()
        if connection is None:
            self._wait_for([], limit_s)
            return
        try:
            ready = self._wait_for([connection.fileno()], limit_s)
            if connection.fileno() in ready:
                for _ in connection.notifies(timeout=0):
                    pass
        except Exception:  # whatever broke, the next round listens anew
            self._forget()

    def close(self) -> None:
        self._forget()
        super().close()

    def _listening(self) -> Any:
        if self._connection is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + 5.0
            try:
                self._connection = self._open()
            except Exception:
                self._forget()
        return self._connection

    def _open(self) -> Any:
        """A connection outside of the pool, which listens for as long as it lives."""
        arguments, options = self._engine.dialect.create_connect_args(self._engine.url)
        connection = psycopg.connect(*arguments, **options, autocommit=True)
        connection.execute(f"LISTEN {CHANNEL}")
        return connection

    def _forget(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


class SqliteWakeup(_Pipe):
    """Looks whether anybody has written."""

    rings = False
    look_every = seconds(1)

    def __init__(self, path: str) -> None:
        super().__init__()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._seen = self._version()

    def wait(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while (left := deadline - time.monotonic()) > 0:
            if self._wait_for([], min(left, SQLITE_LOOK_S)):
                return
            version = self._version()
            if version != self._seen:
                self._seen = version
                return

    def close(self) -> None:
        self._connection.close()
        super().close()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
