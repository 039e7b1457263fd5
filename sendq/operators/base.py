"""The ledger of an `Operators` object: one transaction per question or change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine

from sendq import clock
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading, writing

T = TypeVar("T")


class LedgerAccess:
    """Opens the ledger on first use, and checks once that its schema is this version's.

    Every question and change raises `LedgerUnavailable` or `SchemaMismatch` when the ledger cannot be used, and
    `Retryable` when the database broke the transaction off.
    """

    def __init__(self, ledger: str | URL | Engine, *, now: clock.Clock = clock.now) -> None:
        self._engine = ledger if isinstance(ledger, Engine) else open_engine(ledger)
        self._now = now
        self._checked = False

    def close(self) -> None:
        """Close the pooled connections. New ones are opened if the object is used again."""
        self._engine.dispose()

    def _read(self, question: Callable[[Connection], T]) -> T:
        """Ask in one transaction that only reads."""
        self._check_schema()
        with reading(self._engine) as connection:
            return question(connection)

    def _write(self, change: Callable[[Connection], T]) -> T:
        """Make a change in one transaction."""
        self._check_schema()
        with writing(self._engine) as connection:
            return change(connection)

    def _check_schema(self) -> None:
        if not self._checked:
            migrate.require(self._engine)
            self._checked = True
