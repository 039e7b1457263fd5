"""Connections to the ledger: how they are opened, and what their errors mean.

PostgreSQL 14 and later, or SQLite 3.35 and later. No session state is used (no SET, no advisory locks, no named
prepared statements), so PgBouncer in transaction mode works. Only a worker has settings and prepared statements, and
only where there is no pooler (`sendq.ledger.db.direct`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from sendq.errors import LedgerUnavailable
from sendq.ledger.db import causes
from sendq.ledger.db.concealing import conceal
from sendq.ledger.db.urls import for_asyncpg, ledger_url, parsed_url

if TYPE_CHECKING:
    from psycopg.adapt import AdaptersMap
    from sqlalchemy.ext.asyncio import AsyncEngine

# How long a SQLite writer waits for another one. A commit takes milliseconds; a lock held longer than this was left
# behind.
SQLITE_BUSY_S = 30.0

# A server that disappears silently (a lost route, a suspended machine) is detected in half a minute instead of the
# kernel's quarter of an hour.
LIBPQ = {
    "connect_timeout": 10,  # s
    "keepalives_idle": 15,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}

_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}

# The package of each driver that is not part of Python.
_PACKAGES = {
    "postgresql+psycopg": "psycopg[binary]",
    "postgresql+psycopg2": "psycopg2-binary",
    "postgresql+asyncpg": "asyncpg",
    "sqlite+aiosqlite": "aiosqlite",
}


def open_engine(url: str | URL, **options: Any) -> Engine:
    """An engine for the ledger, set up for its driver (see `_prepare`); ``options`` go to SQLAlchemy.

    Parameters are hidden, so that bodies and addresses do not appear in error messages.

    Raises:
        ValueError: the URL's database is not supported, or its driver is not installed or is an asyncio driver.
    """
    parsed = ledger_url(url)
    if needs_asyncio(parsed):
        raise ValueError(f"{parsed.drivername!r} is a driver for asyncio; use AsyncSendQueue, or another driver")
    engine = create_engine(parsed, hide_parameters=True, **{**_options(parsed), **options})
    _prepare(engine)
    return engine


# A connection that was used within this time is not pinged. With 1.5 s, lanes waited 9 s after a pooler's restart, in
# each of three runs, instead of 0.1 s (`./dev chaos --only pgbouncer-restarts`).
FRESH_S = 1.0


def open_busy_engine(
    url: str | URL, *, keeps_plans: bool = False, monotonic: Callable[[], float] = time.monotonic, **options: Any
) -> Engine:
    """`open_engine` for a process that uses its connections all the time, and retries aborted transactions.

    Pinging each connection before each transaction would be half the queries of such a process when idle. Here only a
    connection that was unused for more than `FRESH_S` is pinged, and the one used last is used first.

    ``keeps_plans``: only for statements that find a few rows through an index (`sendq.ledger.db.direct`).
    """
    if ledger_url(url).get_backend_name() != "postgresql":
        return open_engine(url, **options)
    engine = open_engine(url, pool_pre_ping=False, pool_use_lifo=True, **options)
    forgets = threading.Event()  # sessions have forgotten statements, as behind a pooler that nothing else shows
    if engine.driver == "psycopg":
        from sendq.ledger.db.direct import DirectConnection

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
            connection = DirectConnection.connect(*arguments, **named)
            connection.set_up(keeps_plans=keeps_plans and not forgets.is_set())
            return connection

        @event.listens_for(engine, "handle_error")
        def failed(context: Any) -> None:
            if keeps_plans and _cause_of(context.original_exception) is causes.FORGOTTEN:
                forgets.set()

    _ping_rested(engine, monotonic)
    return engine


def open_callers_engine(url: str | URL, *, monotonic: Callable[[], float] = time.monotonic) -> Engine:
    """`open_engine` for the process of an application, which passes errors on to its users.

    A connection that was used within `FRESH_S` is not pinged, but looked at (`may_be_closed`): one that the server has
    closed meanwhile is replaced before it breaks a call.
    """
    if ledger_url(url).drivername != "postgresql+psycopg":
        return open_engine(url)
    engine = open_engine(url, pool_pre_ping=False, pool_use_lifo=True)
    from sendq.ledger.db.cooperative import CooperativeConnection, may_be_closed

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        connection = CooperativeConnection.connect(*arguments, **named)
        try:
            connection.note_isolation()
        except BaseException:
            connection.close()
            raise
        return connection

    _ping_rested(engine, monotonic, look=may_be_closed)
    return engine


Look = Callable[[Any], bool]


def _ping_rested(engine: Engine, monotonic: Callable[[], float], *, look: Look | None = None) -> None:
    """Replace a connection at checkout that does not live any more (`still_lives`)."""

    @event.listens_for(engine, "checkin")
    def used(_connection: Any, record: Any) -> None:
        record.info["sendq_used_at"] = monotonic()

    @event.listens_for(engine, "checkout")
    def taken(connection: Any, record: Any, _fairy: Any) -> None:
        used_at = record.info.get("sendq_used_at")
        if used_at is not None and not still_lives(engine, connection, monotonic() - used_at, look=look):
            raise exc.DisconnectionError  # the pool opens another one


def still_lives(engine: Engine, connection: Any, unused_s: float, *, look: Look | None = None) -> bool:
    """Whether a driver's connection works. It is pinged if it was unused for more than `FRESH_S`, or if ``look``
    suspects that it has ended.
    """
    if unused_s <= FRESH_S and (look is None or not look(connection)):
        return True
    try:
        return engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error:
        return False


def open_async_engine(url: str | URL, **options: Any) -> AsyncEngine:
    """`open_engine` for asyncio; a URL without an async driver gets asyncpg or aiosqlite."""
    parsed = parsed_url(url)
    name = "postgresql" if parsed.drivername == "postgres" else parsed.drivername
    if name not in _ASYNC_DRIVERS:
        raise ValueError(
            f"{name!r} is no asyncio driver; write postgresql+asyncpg://, postgresql+psycopg:// or sqlite://"
        )
    from sqlalchemy.ext.asyncio import create_async_engine  # 8 MB, which the sync side does not need

    parsed = parsed.set(drivername=_ASYNC_DRIVERS[name])
    needs_asyncio(parsed)
    prepared = _options(parsed)
    if parsed.drivername == "postgresql+asyncpg":
        parsed, arguments = for_asyncpg(parsed)
        prepared["connect_args"] |= arguments
    engine = create_async_engine(parsed, hide_parameters=True, **{**prepared, **options})
    _prepare(engine.sync_engine)
    return engine


def needs_asyncio(url: URL) -> bool:
    """Whether the URL's driver is an asyncio driver.

    Raises:
        ValueError: the driver is not installed, or does not exist.
    """
    try:
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except (ModuleNotFoundError, exc.NoSuchModuleError):
        package = _PACKAGES.get(url.drivername)
        remedy = f"pip install '{package}'" if package else f"write one of {', '.join(_PACKAGES)}"
        raise ValueError(f"the driver of {url.drivername!r} is not installed; {remedy}") from None
    return bool(dialect.is_async)


def _options(url: URL) -> dict[str, Any]:
    """The options that each driver needs to work behind a pooler, and to fail rather than hang.

    Transactions are READ COMMITTED whatever the database's default is: a lane is locked in one statement and its next
    job found in a later one, which must see what was committed in between.
    """
    if url.get_backend_name() == "sqlite":
        connecting: dict[str, Any] = {"connect_args": {"timeout": SQLITE_BUSY_S}}
        if url.drivername == "sqlite+aiosqlite" and url.database not in (None, "", ":memory:"):
            # An idle connection has a thread, which no other event loop and no child process could use or end.
            connecting["poolclass"] = NullPool
        return connecting
    # Said with each BEGIN, so it costs no round trip and a pooler cannot lose it.
    common: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
    if url.drivername == "postgresql+psycopg":
        return {"connect_args": {"prepare_threshold": None, "context": _binary_lists(), **LIBPQ}, **common}
    if url.drivername == "postgresql+psycopg2":
        return {"connect_args": dict(LIBPQ), **common}
    if url.drivername == "postgresql+asyncpg":
        # Unnamed statements: behind PgBouncer, a named one may not exist on the next server connection.
        return {"connect_args": {"prepared_statement_name_func": str, "statement_cache_size": 0}, **common}
    return common


def _binary_lists() -> AdaptersMap:
    """Make psycopg send lists as binary arrays, which halves the cost of enqueueing.

    As text, the bodies of a thousand jobs would be written in hexadecimal, scanned for characters to quote, and parsed
    again by the server.
    """
    from psycopg import adapters
    from psycopg.adapt import AdaptersMap
    from psycopg.types.array import ListBinaryDumper

    context = AdaptersMap(adapters)
    context.register_dumper(list, ListBinaryDumper)
    return context


def _prepare(engine: Engine) -> None:
    """SQLite: write-ahead log, every commit on disk, and explicit transactions.

    A deferred transaction that reads first and writes later fails if another process wrote in between; one that begins
    IMMEDIATE waits instead. Transactions that only read use ``sendq_reads=True``.

    A new file can be read by its owner alone, and what is deleted in it is overwritten.

    All: after an error that any connection to the same server would have (`Cause.leave`), the pool opens new ones.
    """

    @event.listens_for(engine, "handle_error")
    def left(context: Any) -> None:
        cause = _cause_of(context.original_exception)
        if cause is not None and cause.leave and context.connection is not None:
            context.is_disconnect = True

    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "do_connect")
    def opening(_dialect: Any, _record: Any, arguments: Sequence[Any], _named: Any) -> None:
        path = str(arguments[0]) if arguments else ""
        if path and path != ":memory:" and not path.startswith("file:"):
            # SQLite gives its other files (-wal, -shm) the same mode.
            with suppress(OSError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    @event.listens_for(engine, "connect")
    def opened(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # only the "begin" event below sends BEGIN
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("sendq_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def empty_log(engine: Engine) -> None:
    """SQLite: move what was committed into the file and empty its write-ahead log, which has copies of what it erased.

    Best effort: another process that reads for longer than `SQLITE_BUSY_S` keeps the log.
    """
    if engine.dialect.name != "sqlite":
        return
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def without_translation(engine: Engine) -> Engine:
    """The engine without a ``schema_translate_map``, which would reach only some of our statements."""
    if not engine.get_execution_options().get("schema_translate_map"):
        return engine
    return engine.execution_options(schema_translate_map=None)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes. Raises `Retryable`, `LedgerUnavailable` or `SchemaMismatch`."""
    with translated(), engine.connect() as connection, leaving_bad_servers(connection):
        connection.begin()
        yield connection
        connection.commit()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads."""
    with (
        translated(),
        engine.connect().execution_options(sendq_reads=True) as connection,
        leaving_bad_servers(connection),
    ):
        yield connection


@contextmanager
def leaving_bad_servers(connection: Connection) -> Iterator[None]:
    """Close a connection to a server that will go on refusing (`Cause.leave`); the next one may reach another.

    The engines of this module do so by themselves; this is for the application's.
    """
    try:
        yield
    except exc.DBAPIError as error:
        cause = cause_of(error)
        if cause is not None and cause.leave and not connection.invalidated and not connection.closed:
            connection.invalidate(error)
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's errors into `Retryable`, `LedgerUnavailable` or `SchemaMismatch`; pass on all others.

    None of them shows what a statement was given (`sendq.ledger.db.concealing`).
    """
    outside = sys.exception()
    try:
        yield
    except exc.StatementError as error:
        # Before the texts are shortened, which tell refused connections apart.
        meaning = meaning_of(error) if isinstance(error, exc.DBAPIError) else None
        if error.statement is not None:
            conceal(error, outside=outside)
        if meaning is None:
            raise
        raise meaning from error
    except exc.TimeoutError as error:
        raise LedgerUnavailable("no free connection to the ledger; increase the pool's size or timeout") from error
    except Exception as error:
        # asyncpg's errors when it connects, which SQLAlchemy passes on as they are.
        state = getattr(error, "sqlstate", None)
        cause = causes.of_state(state, str(error)) if isinstance(state, str) else None
        if cause is None:
            raise
        raise cause.error() from error


def meaning_of(error: exc.DBAPIError) -> causes.Meaning | None:
    """The exception for an error of the database; None: unknown, hence a bug."""
    cause = cause_of(error)
    return None if cause is None else cause.error()


def cause_of(error: exc.DBAPIError) -> causes.Cause | None:
    """What an error of the database means; None: unknown, hence a bug."""
    found = _cause_of(error.orig)
    if found is None and (error.connection_invalidated or isinstance(error, exc.InterfaceError)):
        return causes.UNREACHABLE
    if found is causes.NO_RIGHT and (error.statement or "").lstrip().startswith(("CREATE", "ALTER", "DROP")):
        return None  # a migration needs other rights, which the server names
    return found


def _cause_of(original: BaseException | None) -> causes.Cause | None:
    if original is None:
        return None
    known = getattr(original, "cause", None)
    if isinstance(known, causes.Cause):
        return known
    message = str(original)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is not None:
        return causes.of_state(str(state), message)
    kinds = {kind.__name__ for kind in type(original).__mro__}
    if _of_sqlite(original):
        return causes.of_sqlite(message)
    return causes.of_refusal(message) if "OperationalError" in kinds else None


def _of_sqlite(error: BaseException) -> bool:
    import sqlite3  # only here: a ledger on PostgreSQL does not need it

    return isinstance(error, sqlite3.OperationalError)
