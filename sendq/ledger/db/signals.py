"""Waiting for commits of other processes, and the database's clock. Uses connections outside of the engine's pool.

Each driver is imported where it is used: a process needs only one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, text

from sendq.clock import Micros
from sendq.ledger.db import constant

if TYPE_CHECKING:
    import psycopg

_TIME = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")


def server_time(connection: Connection) -> Micros | None:
    """The time by PostgreSQL's clock; None on SQLite, whose clock is this machine's."""
    if connection.dialect.name != "postgresql":
        return None
    return int(constant.rows(connection, _TIME, {})[0][0])


# How long a notification may take to come through a pooler that passes it on.
PASSED_ON_S = 0.5


class NoNotifications(Exception):
    """A pooler between here and PostgreSQL keeps notifications back, as PgBouncer does in transaction mode."""


def listen(engine: Engine, channel: str) -> psycopg.Connection[Any]:
    """A new connection to PostgreSQL that receives the notifications of ``channel`` until it is closed.

    Raises `NoNotifications` if it would not receive any: through a pooler, LISTEN may succeed and have no effect.
    """
    import psycopg

    arguments, options = engine.dialect.create_connect_args(engine.url)
    connection = psycopg.connect(*arguments, **options, autocommit=True)
    try:
        connection.execute(f"LISTEN {channel}".encode())
        if _is_pooled(connection) and not _receives(connection, engine, channel):
            raise NoNotifications
    except BaseException:
        connection.close()
        raise
    return connection


def _is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether another process than the one that answered the connection's start executes its statements."""
    row = connection.execute(b"SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid


def _receives(connection: psycopg.Connection[Any], engine: Engine, channel: str) -> bool:
    """Whether a notification that another connection sends arrives."""
    with engine.begin() as other:
        other.execute(text(f"NOTIFY {channel}"))
    return any(True for _ in connection.notifies(timeout=PASSED_ON_S, stop_after=1))


class WriteCounter:
    """Detects writes to a SQLite file by other connections. A check costs a few microseconds of CPU."""

    def __init__(self, path: str) -> None:
        import sqlite3

        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._seen = self._version()

    def has_changed(self) -> bool:
        """Whether there was a commit since the last call, or the file cannot be read: what follows will say why."""
        import sqlite3

        try:
            before, self._seen = self._seen, self._version()
        except sqlite3.Error:
            return True
        return before != self._seen

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
