"""Transactions on the ledger for asyncio, as `AsyncSendQueue` uses them; the queries are shared with the sync side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from sendq.ledger.db import causes, migrate
from sendq.ledger.db.engine import leaving_bad_servers, open_async_engine, translated, without_translation
from sendq.ledger.db.forks import around_forks
from sendq.ledger.db.joined import async_connection_of, joined
from sendq.ledger.db.own_ledger import OwnLedger, Stranger, name_of_ledger

T = TypeVar("T")


class AsyncTransactions:
    """`sendq.ledger.db.transactions.Transactions` for asyncio.

    A connection belongs to the event loop that opened it, so each loop has an engine of its own; a child process, too,
    opens its own connections. An `AsyncEngine` of the caller's serves one loop after another.
    """

    def __init__(self, ledger: str | URL | AsyncEngine) -> None:
        self.engine = _untranslated(ledger) if isinstance(ledger, AsyncEngine) else open_async_engine(ledger)
        self._url = None if isinstance(ledger, AsyncEngine) else ledger
        self._engines: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._lock = Lock()  # loops run in different threads
        self._schema_is_right = False
        self._own = OwnLedger(self.engine.sync_engine)
        around_forks(self, in_child=AsyncTransactions._forget_loops)

    async def write(self, session: Any, action: Callable[[Connection], T]) -> T:
        """Run ``action`` in the transaction of ``session``, or, if it is None, in a new one."""
        with _translated():
            if session is not None:
                return await self._write_joined(session, action)
            await self._check_schema()
            async with self._engine_here().begin() as connection:
                return await connection.run_sync(_run, action)

    async def _write_joined(self, session: Any, action: Callable[[Connection], T]) -> T:
        def work(given: Any, is_own: bool) -> Stranger | _Done[T]:
            with joined(given) as connection:
                stranger = None if is_own else self._own.stranger(given, connection)
                return _Done(action(connection)) if stranger is None else stranger

        runner = async_connection_of(session)
        found = await runner.run_sync(work, False)
        if isinstance(found, Stranger):
            self._own.compare(found, await self.read(name_of_ledger))
            found = await runner.run_sync(work, True)
            assert not isinstance(found, Stranger)
        return found.result

    async def read(self, query: Callable[[Connection], T], session: Any = None) -> T:
        """Run ``query`` in the transaction of ``session``, or, if it is None, in a new one that only reads."""
        if session is not None:
            return await self.write(session, query)
        with _translated():
            await self._check_schema()
            async with self._engine_here().connect() as connection:
                await connection.execution_options(sendq_reads=True)
                return await connection.run_sync(_run, query)

    async def close(self) -> None:
        """Close the pooled connections of this event loop; the next transaction opens new ones."""
        await self._engine_here().dispose()

    async def _check_schema(self) -> None:
        if not self._schema_is_right:
            async with self._engine_here().connect() as connection:
                await connection.execution_options(sendq_reads=True)
                await connection.run_sync(migrate.require)
            self._schema_is_right = True

    def _engine_here(self) -> AsyncEngine:
        """The engine of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._engines.get(loop)
            if found is None:
                found = self._engines[loop] = self._free_engine()
            return found

    def _free_engine(self) -> AsyncEngine:
        """An engine that no running loop uses."""
        for loop in [loop for loop in self._engines if loop.is_closed()]:
            # Its connections ended with the loop: they can be neither used nor closed any more.
            self._engines.pop(loop).sync_engine.dispose(close=False)
        if self.engine not in self._engines.values():
            return self.engine
        if self._url is None:
            raise RuntimeError(
                "the AsyncEngine is in use by another event loop; give AsyncSendQueue a URL, or make an engine and a "
                "queue for each loop"
            )
        return open_async_engine(self._url)

    def _forget_loops(self) -> None:
        """In a child process: leave the parent's sockets open."""
        self._lock = Lock()  # another thread may have held it
        for engine in {self.engine, *self._engines.values()}:
            engine.sync_engine.dispose(close=False)
        self._engines.clear()


def _untranslated(engine: AsyncEngine) -> AsyncEngine:
    """`without_translation`."""
    given = engine.sync_engine
    return engine if without_translation(given) is given else engine.execution_options(schema_translate_map=None)


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    result: T


def _run(connection: Connection, action: Callable[[Connection], T]) -> T:
    with leaving_bad_servers(connection):
        return action(connection)


@contextmanager
def _translated() -> Iterator[None]:
    with translated():
        try:
            yield
        except OSError as error:  # asyncpg raises these when it cannot connect, and SQLAlchemy passes them on
            raise causes.UNREACHABLE.error() from error
