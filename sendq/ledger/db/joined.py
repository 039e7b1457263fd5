"""Joining the caller's transaction: from the application's connection or session to a SQLAlchemy connection.

    Connection, Session, scoped_session       their own connection
    django.db.connection inside atomic()      a SQLAlchemy connection over Django's own
    AsyncConnection, AsyncSession             themselves, checked: `sendq` works inside their ``run_sync``

The caller keeps control: nothing here commits, rolls back or closes. There must be a transaction to join: autocommit is
rejected, because a call could then be stored in part.

Django is not imported; its connection is recognised by its attributes. Django's connection and SQLAlchemy's share one
driver connection. SQLAlchemy does not prepare it: it registers no types and no functions on it, and sends no statement
that the caller did not ask for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, exc
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

T = TypeVar("T")

_EXPECTED = "session: pass a SQLAlchemy Connection or Session, or django.db.connection inside atomic()"
_EXPECTED_ASYNC = "session: pass a SQLAlchemy AsyncConnection or AsyncSession"

# SQLAlchemy's dialect for each of Django's drivers, by the module that Django's connection has as `Database`.
_DIALECTS = {
    "psycopg": "postgresql+psycopg",
    "psycopg2": "postgresql+psycopg2",
    "sqlite3": "sqlite+pysqlite",
}


def _belongs_to_asyncio(session: object) -> bool:
    """Whether it is from `sqlalchemy.ext.asyncio`, which is not imported here (8 MB): its owner has imported it."""
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncio is None:
        return False
    return isinstance(session, asyncio.AsyncConnection | asyncio.AsyncSession | asyncio.async_scoped_session)


class RunsSync(Protocol):
    """What the async queue needs from a connection or session."""

    async def run_sync(self, fn: Callable[..., T], *arg: Any, **kw: Any) -> T:
        """Await ``fn(sync counterpart, …)``."""


def connection_of(session: object) -> Connection:
    """The connection of the caller's open transaction.

    Args:
        session: a SQLAlchemy ``Connection``, ``Session`` or ``scoped_session``, or Django's ``connection`` (one of
            ``django.db.connections``) inside ``atomic()``.

    Returns:
        A connection to execute statements on; its transaction belongs to the caller.

    Raises:
        TypeError: it is something else (an asyncio session, an engine, another database than PostgreSQL or SQLite).
        RuntimeError: there is no transaction to join: autocommit, or Django outside of ``atomic()``.
        django.db.transaction.TransactionManagementError: the ``atomic()`` block failed already and will roll back.
    """
    if _belongs_to_asyncio(session):
        raise TypeError(f"session: {type(session).__name__} belongs to asyncio; use AsyncSendQueue with it")
    if isinstance(session, Connection):
        return _checked(session)
    if _is_django(session):
        return _over_django(session)
    ask = getattr(session, "connection", None)
    if isinstance(session, type) or not callable(ask):
        raise _not(session, _EXPECTED)
    try:
        found = ask()
    except exc.UnboundExecutionError:
        raise TypeError(
            "session: this Session has several databases; pass the ledger's: session.connection(bind_arguments=…)"
        ) from None
    if not isinstance(found, Connection):
        if hasattr(found, "close"):
            found.close()  # a coroutine that is never awaited
        raise _not(session, _EXPECTED)
    return _checked(found)


@contextmanager
def joined(session: object) -> Iterator[Connection]:
    """`connection_of`, for statements on the ledger's own tables.

    A ``schema_translate_map`` of the caller's is not applied to them meanwhile: some are SQL text, which it would not
    reach, so that half of a call would be in another schema.
    """
    connection = connection_of(session)
    translation = connection.get_execution_options().get("schema_translate_map")
    if not translation:
        yield connection
        return
    connection.execution_options(schema_translate_map=None)
    try:
        yield connection
    finally:
        connection.execution_options(schema_translate_map=translation)


def async_connection_of(session: object) -> RunsSync:
    """The asyncio connection or session of the caller's open transaction.

    Use it as ``await async_connection_of(session).run_sync(work)``, where ``work`` begins with `joined`, which rejects
    autocommit.

    Args:
        session: a SQLAlchemy ``AsyncConnection``, ``AsyncSession`` or ``async_scoped_session``.

    Raises:
        TypeError: it is something else.
    """
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if isinstance(session, async_scoped_session):
        session = session()
    if isinstance(session, AsyncConnection | AsyncSession):
        return session
    if _is_django(session):
        raise TypeError("session: Django's connection is not an asyncio one; use SendQueue, inside sync_to_async")
    if isinstance(session, Connection) or callable(getattr(session, "connection", None)):
        raise TypeError(f"session: {type(session).__name__} is not an asyncio one; use SendQueue with it")
    raise _not(session, _EXPECTED_ASYNC)


def _not(session: object, wanted: str) -> TypeError:
    """The error for another object. It shows the type only, because the object may contain a password."""
    name = session.__name__ if isinstance(session, type) else type(session).__name__
    return TypeError(f"{wanted}, not {name}")


def _checked(connection: Connection) -> Connection:
    """The same connection, if its database is supported and it does not autocommit."""
    if connection.dialect.name not in ("postgresql", "sqlite"):
        raise TypeError(f"session: the ledger cannot live in {connection.dialect.name!r}, only in PostgreSQL or SQLite")
    if _autocommits(connection):
        raise RuntimeError(
            "session: the connection is in AUTOCOMMIT, which could store half a call; open a transaction without it"
        )
    return connection


def _autocommits(connection: Connection) -> bool:
    """Whether each statement commits by itself, without asking the server."""
    level = connection.get_execution_options().get("isolation_level")
    if level is None:  # of create_engine(isolation_level=…); no public way to read it sends no statement
        level = getattr(connection.dialect, "_on_connect_isolation_level", None)
    if level is not None:
        return str(level).upper() == "AUTOCOMMIT"
    return getattr(connection.connection.dbapi_connection, "autocommit", False) is True


def _is_django(session: object) -> bool:
    return all(hasattr(session, name) for name in ("vendor", "ensure_connection", "in_atomic_block"))


def _over_django(django: Any) -> Connection:
    """A connection over Django's own, in the open ``atomic()`` block."""
    if not django.in_atomic_block:
        raise RuntimeError(
            "session: Django's connection is outside of atomic(), where each statement commits by itself and half a "
            "call could be stored; wrap the call in django.db.transaction.atomic()"
        )
    driver = django.Database.__name__.partition(".")[0]  # `sqlite3.dbapi2` is how Django imports sqlite3
    if driver not in _DIALECTS:
        raise TypeError(f"session: the ledger cannot live in {django.vendor!r}, only in PostgreSQL or SQLite")
    # Django's cursors do these three; SQLAlchemy's do not.
    django.validate_thread_sharing()
    django.validate_no_broken_transaction()
    django.ensure_connection()
    token = _handed_over.set(_Borrowed(django.connection))
    try:
        return _engine(driver).connect()
    finally:
        _handed_over.reset(token)


class _Borrowed:
    """A driver's connection that belongs to another owner.

    SQLAlchemy may use cursors and read attributes. Ending the transaction or the connection does nothing, and setting
    an attribute (``autocommit = …``) raises AttributeError.
    """

    __slots__ = ("_lent",)

    def __init__(self, lent: Any) -> None:
        object.__setattr__(self, "_lent", lent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lent, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} of a borrowed connection is its owner's to set")

    def commit(self) -> None:
        """The owner commits."""

    def rollback(self) -> None:
        """The owner rolls back."""

    def close(self) -> None:
        """The owner closes."""


# Passes a connection to the pool, which calls its creator without arguments, in the same thread.
_handed_over: ContextVar[_Borrowed] = ContextVar("sendq_borrowed_connection")


@cache
def _engine(driver: str) -> Engine:
    """One engine for each driver, for its dialect and its cache of compiled statements; it keeps no connections.

    Not made with ``create_engine``, which registers types and functions on a new connection and queries the server's
    properties, in the middle of the caller's transaction. PostgreSQL 14 has those that the dialect assumes.
    """
    url = make_url(f"{_DIALECTS[driver]}://")
    dialect_class: Any = url.get_dialect()
    dialect = dialect_class(dbapi=dialect_class.import_dbapi())
    pool = NullPool(_handed_over.get, reset_on_return=None, dialect=dialect)
    return Engine(pool, dialect, url, hide_parameters=True)
