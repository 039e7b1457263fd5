"""Transactions on the ledger for asyncio, as `AsyncSendQueue` uses them; the queries are shared with the sync side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from sendq.errors import LedgerUnavailable
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_async_engine, translated
from sendq.ledger.db.joined import async_connection_of, connection_of

T = TypeVar("T")


class AsyncTransactions:
    """`sendq.ledger.db.transactions.Transactions` for asyncio. Belongs to one event loop, and to one process."""

    def __init__(self, ledger: str | URL | AsyncEngine) -> None:
        self.engine = ledger if isinstance(ledger, AsyncEngine) else open_async_engine(ledger)
        self._schema_is_right = False

    async def write(self, session: Any, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in the transaction of ``session``, or, if it is None, in a new one."""
        with _translated():
            if session is not None:
                return await async_connection_of(session).run_sync(lambda joined: action(connection_of(joined)))
            await self._check_schema()
            async with self.engine.begin() as connection:
                return await connection.run_sync(action)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` in a transaction that only reads."""
        with _translated():
            await self._check_schema()
            async with self.engine.connect() as connection:
                await connection.execution_options(sendq_reads=True)
                return await connection.run_sync(query)

    async def close(self) -> None:
        """Close the pooled connections; the next transaction opens new ones."""
        await self.engine.dispose()

    async def _check_schema(self) -> None:
        if not self._schema_is_right:
            async with self.engine.connect() as connection:
                await connection.execution_options(sendq_reads=True)
                await connection.run_sync(migrate.require)
            self._schema_is_right = True


@contextmanager
def _translated() -> Iterator[None]:
    with translated():
        try:
            yield
        except OSError as error:  # asyncpg raises these when it cannot connect, and SQLAlchemy passes them on
            raise LedgerUnavailable(
                "the ledger cannot be reached; check the database URL and that the server runs"
            ) from error
