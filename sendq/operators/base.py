"""The ledger as the acts and queries of operators use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine

from sendq import clock
from sendq.ledger.db import engine as db
from sendq.ledger.db import migrate

T = TypeVar("T")


class Ledger:
    """One ledger: its transactions, and the time. On first use it checks that the schema is this version's.

    Every transaction raises `LedgerUnavailable` or `SchemaMismatch` if the ledger cannot be used, and `Retryable` if
    the database aborted it.
    """

    def __init__(self, ledger: str | URL | Engine, *, now: clock.Clock = clock.now) -> None:
        self._engine = ledger if isinstance(ledger, Engine) else db.open_engine(ledger)
        self._checked = False
        self.now = now

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads."""
        self._check_schema()
        with db.reading(self._engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that writes."""
        self._check_schema()
        with db.writing(self._engine) as connection:
            yield connection

    def empty_log(self) -> None:
        """Leave no copies of what was erased in SQLite's log."""
        with db.translated():
            db.empty_log(self._engine)

    def close(self) -> None:
        """Close the pooled connections. New ones are opened if the ledger is used again."""
        self._engine.dispose()

    def _check_schema(self) -> None:
        if not self._checked:
            migrate.require(self._engine)
            self._checked = True


class LedgerAccess:
    """What the two halves of `Operators` have in common."""

    def __init__(self, ledger: str | URL | Engine, *, now: clock.Clock = clock.now) -> None:
        self._ledger = Ledger(ledger, now=now)

    def close(self) -> None:
        """Close the pooled connections. New ones are opened if the object is used again."""
        self._ledger.close()

    def require_ledger(self) -> None:
        """Raise `LedgerUnavailable` or `SchemaMismatch` unless the ledger answers and has this version's schema."""
        with self._ledger.reading():
            pass

    def _now(self) -> clock.Micros:
        return self._ledger.now()

    def _read(self, question: Callable[[Connection], T]) -> T:
        """Run a query in one transaction that only reads."""
        with self._ledger.reading() as connection:
            return question(connection)
