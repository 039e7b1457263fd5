"""The ledger's schema in a database: migrate it, print it, and check whether it fits this code.

The revisions are part of the package (`sendq.ledger.db.migrations`). Alembic runs them with their own version table
(``sendq_version``), so they can share a database with an application's Alembic. Every upgrade is one transaction, also
on SQLite: tables and version change together or not at all. Concurrent upgrades wait for the first and then have
nothing to do, so any number of processes may migrate at start.

During a deployment two versions use one ledger, so most revisions only *add*: tables, non-unique indexes, columns that
are nullable or have a default. Such a revision increases the number after the dot (``0001`` → ``0001.1``), and code
works with any later ledger of the same main number, because it names every column that it reads or writes. Other
changes increase the main number (``0002``), and code that does not know it rejects the ledger. A deployment migrates
first, then replaces its processes.

Alembic keeps its context in module globals: only one upgrade at a time per process (guarded by a lock), and none inside
another Alembic's ``env.py`` or revision. It is imported only for migrations, because it takes 10 MB; workers and
applications only check the schema.
"""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, func, inspect, select, text
from sqlalchemy.engine import URL

from sendq.errors import LedgerUnavailable, SchemaMismatch
from sendq.ledger.db.engine import (
    needs_asyncio,
    open_async_engine,
    open_engine,
    reading,
    translated,
    writing,
)
from sendq.ledger.db.schema import VERSION_TABLE
from sendq.ledger.db.urls import ledger_url
from sendq.ledger.dispatching import lineage

if TYPE_CHECKING:
    from alembic.config import Config

# Works wherever the package is installed; the worker's `sendq migrate` does the same.
COMMAND = "python -m sendq migrate"

# The advisory lock for migrations in PostgreSQL, "sendq" in ASCII. A transaction lock, which works through PgBouncer in
# transaction mode.
LOCK = 0x73656E6471

Status = Literal["ok", "missing", "older", "ahead", "newer"]

_scripts = Path(__file__).parent / "migrations"
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The schema of a database compared with this code.

    ``found`` is the revision of the database (None: sendq was never migrated there), ``wanted`` the last one that this
    code knows. ``newer``: the database is at a revision that this code does not know; ``ahead``: the same, but only by
    additions, which this code does not need.
    """

    found: str | None
    wanted: str
    status: Status


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The result of an upgrade: the revision before and after, and those applied, in order."""

    before: str | None
    after: str | None
    applied: tuple[str, ...]


def run(url: str | URL) -> Upgrade:
    """Migrate the database at ``url``, as both command lines do.

    For a URL with an asyncio driver (``postgresql+asyncpg://``), that driver is used in a new event loop.

    Raises:
        ValueError: the URL is invalid, its database is not supported, or its driver is not installed.
        LedgerUnavailable: the database cannot be reached.
        SchemaMismatch: the database is newer than this code.
        Retryable: the SQLite file was locked by another process.
    """
    parsed = ledger_url(url)
    try:
        if needs_asyncio(parsed):
            return asyncio.run(_run_async(parsed))
        engine = open_engine(parsed)
        try:
            return upgrade(engine)
        finally:
            engine.dispose()
    except OSError as error:  # raised by asyncpg when the connection is refused
        raise LedgerUnavailable(
            "the ledger cannot be reached; check the database URL and that the server runs"
        ) from error


def upgrade(engine: Engine, *, to: str = "head") -> Upgrade:
    """Run the pending revisions in one transaction.

    Safe when several processes do it at once, and when there is nothing to do.

    Args:
        engine: of the database; its search path decides in which schema of PostgreSQL the tables go.
        to: the revision to stop at; ``head`` is the last one.

    Raises:
        SchemaMismatch: the database is newer than this code.
        LedgerUnavailable, Retryable: see `sendq.ledger.db.engine.writing`.
        alembic.util.CommandError: there is no revision ``to``, or the database is past it.
    """
    with writing(_settled(engine)) as connection:
        return _upgrade(connection, to)


def sql(dialect: str | URL, from_: str | None = None) -> str:
    """The SQL of the revisions after ``from_`` (None: all of them), without connecting to a server.

    Args:
        dialect: ``postgresql``, ``sqlite``, or a URL of either.
        from_: the revision that the database is at.

    Raises:
        ValueError: an unsupported database, or an invalid URL.
        alembic.util.CommandError: there is no revision ``from_``.
    """
    given = f"{dialect}://" if isinstance(dialect, str) and ":" not in dialect else dialect
    printed = io.StringIO()
    settings = config(printed=printed, dialect=ledger_url(given).get_backend_name())
    from alembic import command

    with _one_at_a_time:
        command.upgrade(settings, f"{from_}:head" if from_ else "head", sql=True)
    return printed.getvalue()


def state(database: Engine | Connection) -> SchemaState:
    """Compare the database's schema with this code. A given connection is only read, in its current transaction.

    Raises:
        LedgerUnavailable: the database cannot be reached.
    """
    if isinstance(database, Engine):
        with reading(database) as connection:
            found = _found(connection)
    else:
        with translated():
            found = _found(database)
    return SchemaState(found, wanted(), _status(found))


def require(database: Engine | Connection) -> SchemaState:
    """Raise if this code cannot work with the database's schema; return its state (``ok`` or ``ahead``).

    With asyncio: ``await connection.run_sync(require)``.

    Raises:
        SchemaMismatch: it is missing, older, or newer by more than additions; the message says what to do.
        LedgerUnavailable: the database cannot be reached.
    """
    seen = state(database)
    if seen.status == "missing":
        raise SchemaMismatch(f"the ledger's tables are not in this database yet; run: {COMMAND}")
    if seen.status == "older":
        raise SchemaMismatch(f"the ledger's schema is {seen.found}, this code needs {seen.wanted}; run: {COMMAND}")
    _refuse_newer(seen.found)
    return seen


def wanted() -> str:
    """The last revision that this code knows; the empty string when there is none at all."""
    return _known()[-1] if _known() else ""


def config(*, printed: io.StringIO | None = None, **given: Any) -> Config:
    """Alembic's configuration, without a file; ``given`` (a connection, a dialect …) goes to ``migrations/env.py``."""
    from alembic.config import Config

    settings = Config(output_buffer=printed, attributes=given)
    # ConfigParser would treat a percent sign in a path as an interpolation.
    settings.set_main_option("script_location", str(_scripts).replace("%", "%%"))
    return settings


def _settled(engine: Engine) -> Engine:
    """The engine with an isolation level at which a waiter, once it has the lock, sees what the first one committed."""
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="READ COMMITTED")


async def _run_async(url: URL) -> Upgrade:
    engine = open_async_engine(url)
    try:
        if url.get_backend_name() == "postgresql":
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        with translated():
            async with engine.begin() as connection:
                return await connection.run_sync(_upgrade, "head")
    finally:
        await engine.dispose()


def _upgrade(connection: Connection, to: str) -> Upgrade:
    """Lock, compare, upgrade. The caller's transaction releases the lock."""
    _lock(connection)
    before = _found(connection)
    _refuse_newer(before)
    if _status(before) == "ahead":
        return Upgrade(before, before, ())
    if before is not None:
        _stay_in_schema(connection)
    from alembic import command

    applied: list[str] = []

    def note(step: Any, **_: Any) -> None:
        applied.append(step.up_revision_id)

    with _one_at_a_time:
        command.upgrade(config(connection=connection, on_version_apply=note), to)
    after = _found(connection)
    if applied and after == wanted():
        lineage.name_line(connection)
    return Upgrade(before, after, tuple(applied))


def _lock(connection: Connection) -> None:
    """Wait until no other process migrates this database."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    elif not cast(Any, connection.connection.driver_connection).in_transaction:
        # On a caller's engine, Python's sqlite3 would begin only at the first INSERT, after the tables.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _stay_in_schema(connection: Connection) -> None:
    """PostgreSQL: put what a revision creates beside the tables that are there, wherever they are on the search path.

    For this transaction alone, so that it works through PgBouncer in transaction mode.
    """
    if connection.dialect.name == "postgresql":
        where = text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(:name)")
        schema = connection.execute(where, {"name": VERSION_TABLE}).scalar_one()
        connection.execute(select(func.set_config("search_path", schema, True)))


def _found(connection: Connection) -> str | None:
    """The revision of the database; None when it has none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(_version.c.version_num)).scalar()


def _status(found: str | None) -> Status:
    if found is None:
        return "missing"
    if found == wanted():
        return "ok"
    if found in _known():
        return "older"
    return "ahead" if found.partition(".")[0] == wanted().partition(".")[0] else "newer"


def _refuse_newer(found: str | None) -> None:
    if _status(found) == "newer":
        raise SchemaMismatch(
            f"the ledger's schema is {found}, which this version of sendq does not know (its latest is {wanted()}); "
            "upgrade sendq in the application and in the workers"
        )


@cache
def _known() -> tuple[str, ...]:
    """The revisions, first to last, by the names of their files."""
    found = {path.name.partition("_")[0] for path in (_scripts / "versions").glob("[0-9]*.py")}
    return tuple(sorted(found, key=lambda revision: [int(part) for part in revision.split(".")]))
