"""Which PostgreSQL server answers, and since when: what changes when a replica takes over or a backup is restored.

A text like ``00000001:16412@1782896400.123456``: the timeline (a promoted replica and a point-in-time recovery begin a
new one), the number of the leader's table (a restored dump has another one), and when the server was started. Source:
PostgreSQL 18, 9.28 "System Administration Functions" and 26.5 "Timelines".
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Connection, Engine, Text, exc, literal_column, null, select

_TABLE_AND_START = "'sendq_leader'::regclass::oid::text || '@' || extract(epoch from pg_postmaster_start_time())::text"
_FULL = (
    "CASE WHEN pg_is_in_recovery() THEN NULL"
    f" ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || ':' || {_TABLE_AND_START} END"
)
# For servers without positions in the WAL, like Aurora, whose replicas share their primary's storage and lose nothing.
_WITHOUT_TIMELINE = f"CASE WHEN pg_is_in_recovery() THEN NULL ELSE {_TABLE_AND_START} END"

_columns: WeakKeyDictionary[Engine, ColumnElement[Any]] = WeakKeyDictionary()


def server_run(connection: Connection) -> ColumnElement[Any]:
    """The column to select; null on SQLite, and on a server in recovery. The first use tries what the server knows."""
    if connection.dialect.name != "postgresql":
        return null()
    known = _columns.get(connection.engine)
    if known is None:
        known = _columns[connection.engine] = _tried(connection)
    return known


def same_history(one: str | None, other: str | None) -> bool:
    """Whether both are of one server's history: it may have been restarted, but no other one has taken its place."""
    return _history(one) == _history(other)


def _history(run: str | None) -> str | None:
    return None if run is None else run.partition("@")[0]


def _tried(connection: Connection) -> ColumnElement[Any]:
    full = literal_column(_FULL, Text)
    try:
        with connection.begin_nested():
            connection.execute(select(full))
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return literal_column(_WITHOUT_TIMELINE, Text)
    return full
