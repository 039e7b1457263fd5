"""Transactions on the ledger, as `SendQueue` uses them: its own, or the caller's open one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine

from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_callers_engine, reading, translated, without_translation, writing
from sendq.ledger.db.forks import around_forks
from sendq.ledger.db.joined import joined
from sendq.ledger.db.kept_connection import KeptConnection
from sendq.ledger.db.own_ledger import OwnLedger, name_of_ledger

T = TypeVar("T")


class Transactions:
    """Runs functions of a connection in transactions. Connects, and checks the schema, when it is first used.

    Thread-safe, and safe across a fork: a child process opens its own connections.

    Raises `LedgerUnavailable`, `SchemaMismatch` and `Retryable` for what the database raises.
    """

    def __init__(self, ledger: str | URL | Engine) -> None:
        self.engine = without_translation(ledger) if isinstance(ledger, Engine) else open_callers_engine(ledger)
        self._kept = self._keeping(ledger)
        self._schema_is_right = False
        self._own = OwnLedger(self.engine)
        around_forks(self, before=_close_idle_files, in_child=_forget_connections)

    def write(self, session: Any, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in the transaction of ``session`` (see `joined`), or, if it is None, in a new one."""
        if session is not None:
            with translated(), joined(session) as connection:
                if (stranger := self._own.stranger(session, connection)) is not None:
                    self._own.compare(stranger, self.read(name_of_ledger))
                return action(connection)
        self._check_schema()
        if self._kept is not None:
            return self._kept.write(action)
        with writing(self.engine) as connection:
            return action(connection)

    def read(self, query: Callable[[Connection], T], session: Any = None) -> T:
        """Run ``query`` in the transaction of ``session``, or, if it is None, in a new one that only reads."""
        if session is not None:
            return self.write(session, query)
        self._check_schema()
        with reading(self.engine) as connection:
            return query(connection)

    def close(self) -> None:
        """Close the pooled connections; the next transaction opens new ones."""
        if self._kept is not None:
            self._kept.close()
        self.engine.dispose()

    def _keeping(self, ledger: str | URL | Engine) -> KeptConnection | None:
        if isinstance(ledger, Engine) or self.engine.driver != "psycopg":
            return None
        from sendq.ledger.db.cooperative import may_be_closed  # imports psycopg

        return KeptConnection(self.engine, look=may_be_closed)

    def _check_schema(self) -> None:
        if not self._schema_is_right:
            migrate.require(self.engine)
            self._schema_is_right = True


def _close_idle_files(transactions: Transactions) -> None:
    """Before a fork: close SQLite's idle connections.

    A child that inherits one assumes that its own process holds the file's locks, which is wrong: the process that
    closes first deletes the log that the other one is writing.
    """
    if transactions.engine.dialect.name == "sqlite":
        transactions.engine.dispose()


def _forget_connections(transactions: Transactions) -> None:
    """In a child: leave the parent's sockets open."""
    if transactions._kept is not None:
        transactions._kept.forget()
    transactions.engine.dispose(close=False)
