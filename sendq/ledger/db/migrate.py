"""The ledger's schema in a database: bring it up to date, print it, and say whether it fits this code.

The revisions ship inside the package (`sendq.ledger.db.migrations`) and Alembic runs them, with a version table of
their own (``sendq_version``), so that they live beside an application's Alembic in one database. Every upgrade is one
transaction: the tables and the version are there together or not at all, on SQLite too. Whoever comes second waits for
the first and then finds nothing left to do, so any number of processes may migrate as they start.

Two versions work side by side on one ledger while a deployment lasts, so most revisions only *add*: tables, indexes
that are not unique, columns that are nullable or have a default. Such a one is a step behind the dot (``0001`` →
``0001.1``), and code of any step works with a ledger of any later step of the same number: it names every column that
it reads or writes. Whatever else changes counts up the number itself (``0002``), and code that does not know it refuses
the ledger. A deployment migrates first, then replaces its processes.

Alembic keeps its context in module globals: one upgrade at a time in a process (a lock sees to it), and none from
inside another Alembic's ``env.py`` or revision. It is imported when something is to be migrated: whoever only asks
whether the schema fits, as each worker and each application does, is spared its 10 MB.
"""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, func, inspect, select
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

# PostgreSQL's lock for those who migrate, "sendq" in ASCII. It is the transaction's, not the session's, so it is let
# go with the commit, and PgBouncer in transaction mode may stand in between.
LOCK = 0x73656E6471

Status = Literal["ok", "missing", "older", "ahead", "newer"]

_scripts = Path(__file__).parent / "migrations"
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How the schema of a database stands to this code.

    ``found`` is the revision of the database (None: sendq was never migrated there), ``wanted`` the last one that this
    code knows. ``newer`` means that the database is at a revision that this code does not know, ``ahead`` that it is
    so by additions alone, which this code need not know.
    """

    found: str | None
    wanted: str
    status: Status


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did: the revision before and after, and those applied in between, in order."""

    before: str | None
    after: str | None
    applied: tuple[str, ...]


def run(url: str | URL) -> Upgrade:
    """Bring the database at ``url`` up to date: what both command lines do.

    A URL with an asyncio driver (``postgresql+asyncpg://``) is served by that driver, in an event loop of its own.

    Raises:
        ValueError: the URL is not one, names a database that sendq does not speak, or a driver that is not there.
        LedgerUnavailable: the database cannot be reached.
        SchemaMismatch: the database is newer than this code.
        Retryable: somebody else kept the SQLite file locked.
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
    except OSError as error:  # asyncpg's way to say that nobody listens
        raise LedgerUnavailable(
            "the ledger cannot be reached; check the database URL and that the server runs"
        ) from error


def upgrade(engine: Engine, *, to: str = "head") -> Upgrade:
    """Run the revisions that the database has not been through, in one transaction.

    Harmless when several processes do it at once, and when there is nothing to do.

    Args:
        engine: of the database; its search path decides in which schema of PostgreSQL the tables go.
        to: the revision to stop at; ``head`` is the last one.

    Raises:
        SchemaMismatch: the database is newer than this code.
        LedgerUnavailable, Retryable: as `sendq.ledger.db.engine.writing` has it.
        alembic.util.CommandError: there is no revision ``to``, or it lies behind the database's own.
    """
    with writing(_settled(engine)) as connection:
        return _upgrade(connection, to)


def sql(dialect: str | URL, from_: str | None = None) -> str:
    """The statements of the revisions after ``from_`` (None: all of them), for a person to run; asks no server.

    Args:
        dialect: ``postgresql``, ``sqlite``, or a URL of either.
        from_: the revision that the database is at.

    Raises:
        ValueError: another database, or no URL.
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
    """How the schema of the database stands to this code. A connection is only read from, in its own transaction.

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
    """Refuse a database whose schema this code cannot work with; gives how it stands (``ok`` or ``ahead``).

    With asyncio: ``await connection.run_sync(require)``.

    Raises:
        SchemaMismatch: it is missing, older, or newer by more than additions; the message names the remedy.
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
    """Alembic's configuration, without a file; ``given`` (a connection, a dialect …) reaches ``migrations/env.py``."""
    from alembic.config import Config

    settings = Config(output_buffer=printed, attributes=given)
    # ConfigParser would take a percent sign in a path for an interpolation.
    settings.set_main_option("script_location", str(_scripts).replace("%", "%%"))
    return settings


def _settled(engine: Engine) -> Engine:
    """The same engine with an isolation in which a waiter, once it has the lock, sees what the first one committed."""
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
    """Lock, look, run. The lock falls with the caller's transaction."""
    _lock(connection)
    before = _found(connection)
    _refuse_newer(before)
    if _status(before) == "ahead":
        return Upgrade(before, before, ())
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
    """Wait until nobody else migrates this database."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(LOCK)))
    elif not cast(Any, connection.connection.driver_connection).in_transaction:
        # An engine that is not ours: Python's sqlite3 would begin only at the first INSERT, after the tables.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


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
            f"the ledger's schema is {found}, which this code does not know (its last is {wanted()}); "
            "upgrade sendq here, in the application and in the workers alike"
        )


@cache
def _known() -> tuple[str, ...]:
    """The revisions, first to last, by the names of their files."""
    found = {path.name.partition("_")[0] for path in (_scripts / "versions").glob("[0-9]*.py")}
    return tuple(sorted(found, key=lambda revision: [int(part) for part in revision.split(".")]))
