"""`AsyncSendQueue`: the same queue, on every asyncio driver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sendq import (
    AsyncSendQueue,
    InvalidJob,
    KeyConflict,
    LedgerUnavailable,
    Message,
    NotFound,
    NotWaiting,
    Options,
    Query,
    Retryable,
    SchemaMismatch,
    Send,
    SendQueue,
    State,
)
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_async_engine, open_engine
from tests.support.ledger import MESSAGE
from tests.support.waiting import LIMIT_S

OTHER = Message(to=["nyah@example.com"])


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of a migrated ledger, for each asyncio driver."""
    if request.param == "aiosqlite":
        return str(request.getfixturevalue("sqlite_ledger_url"))
    return str(request.getfixturevalue("pg_ledger_url")).replace("+psycopg", f"+{request.param}")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncSendQueue]:
    queue = AsyncSendQueue(url)
    try:
        yield queue
    finally:
        await queue.close()


def on(url: str, story: Callable[[AsyncSendQueue], Awaitable[None]]) -> None:
    """Run a story against a queue."""

    async def run() -> None:
        async with opened(url) as queue:
            await story(queue)
        # A connection that could not be opened leaves its thread behind, which still speaks to this loop.
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, LIMIT_S)

    asyncio.run(run())


async def jobs(session: AsyncSession) -> int:
    return (await session.execute(select(func.count()).select_from(schema.job))).scalar_one()


class TestTheAsyncQueue:
    def test_enqueues_and_reads_on_every_driver(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            sent = await queue.send("g1", MESSAGE, key="k")
            again = await queue.send("g1", MESSAGE, key="k")
            assert (again.id, again.existed) == (sent.id, True)
            with pytest.raises(KeyConflict):
                await queue.send("g1", OTHER, key="k")
            many = await queue.send_many([Send("g1", MESSAGE, Options(key="k")), Send("g2", OTHER)])
            assert [job.existed for job in many] == [True, False]
            batch = await queue.modify("g1", (f"m{n}" for n in range(2_500)), starred=True, key="b")
            assert (await queue.job(sent.id)).state is State.QUEUED
            assert (await queue.job(key="k")).id == sent.id
            assert (await queue.why(sent.id)).reason == "no_worker"
            assert (await queue.batch(key="b")).total == batch.total == 2_500
            assert await queue.cancel(sent.id) is State.CANCELLED
            with pytest.raises(NotFound):
                await queue.job(key="nobody's")
            with pytest.raises(InvalidJob):
                await queue.send("me", MESSAGE)

        on(url, story)

    def test_changes_in_bulk_and_cancels_batches_as_the_sync_one_does(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            matching = await queue.modify_matching("g1", Query(unread=True), unread=False)
            threads = await queue.modify("g1", thread_ids=["t1"], starred=True)
            deleted = await queue.delete("g1", [f"m{n}" for n in range(700)], hard=True, key="gone")
            await queue.delete_matching("g1", Query(in_="SPAM"), key="spam")
            assert (matching.total, threads.total, deleted.total) == (None, None, 700)
            await queue.cancel_batch(key="gone")
            assert (await queue.batch(key="gone")).counts == {State.CANCELLED: 700}
            async with queue._ledger.engine.begin() as connection:
                await queue.cancel_batch(matching.id, session=connection)
            view = await queue.batch(matching.id)
            assert view.cancelled_at is not None
            with pytest.raises(NotFound):
                await queue.cancel_batch(key="nobody's")
            with pytest.raises(InvalidJob):
                await queue.modify("g1", ["m"], thread_ids=["t"], starred=True)

        on(url, story)

    def test_changes_what_waits_as_the_sync_one_does(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            sent = await queue.send("g1", MESSAGE, key="k")
            batch = await queue.modify("g1", (f"m{n}" for n in range(700)), starred=True)
            assert await queue.hold(key="k", by="anna", reason="wrong price") == 1
            assert (await queue.why(sent.id)).note == "wrong price"
            assert await queue.release(sent.id) == 1
            assert await queue.reschedule(batch_id=batch.id, due_at=None) == 700
            async with queue._ledger.engine.begin() as connection:
                assert await queue.set_priority(batch_id=batch.id, priority="low", session=connection) == 700
            await queue.cancel(sent.id)
            with pytest.raises(NotWaiting):
                await queue.hold(sent.id)

        on(url, story)

    def test_leaves_the_rows_that_the_sync_one_reads(self, url: str) -> None:
        kept: list[str] = []

        async def story(queue: AsyncSendQueue) -> None:
            kept.append((await queue.send("g1", MESSAGE, key="k")).id)

        on(url, story)
        sync = SendQueue(url.replace("+asyncpg", "+psycopg"))
        assert sync.send("g1", MESSAGE, key="k").id == kept[0]
        sync.close()

    def test_joins_the_callers_transaction(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            engine = open_async_engine(url)
            async with AsyncSession(engine) as session:
                await queue.send("g1", MESSAGE, key="k", session=session)
                await queue.modify("g1", ["m1"], starred=True, session=session)
                assert await jobs(session) == 2
                await session.rollback()
                assert await jobs(session) == 0
            async with AsyncSession(engine) as session, session.begin():
                await queue.send("g1", MESSAGE, session=session)
            async with engine.begin() as connection:
                await queue.send("g1", MESSAGE, session=connection)
            async with AsyncSession(engine) as session:
                assert await jobs(session) == 2
            await engine.dispose()

        on(url, story)

    def test_serves_many_tasks_at_once(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            found = await asyncio.gather(*(queue.send("g1", MESSAGE, key=f"k{n % 5}") for n in range(20)))
            assert len({job.id for job in found}) == 5
            assert sum(not job.existed for job in found) == 5

        on(url, story)

    def test_refuses_a_session_that_is_not_of_asyncio(self, sqlite_ledger_url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            engine = open_engine(sqlite_ledger_url)
            with Session(engine) as session, pytest.raises(TypeError, match="use SendQueue"):
                await queue.send("g1", MESSAGE, session=session)
            with engine.connect() as connection, pytest.raises(TypeError, match="use SendQueue"):
                await queue.cancel("0192f0c1-2f3e-7c4d-9a5b-0123456789ab", session=connection)
            engine.dispose()

        on(sqlite_ledger_url, story)


class TestAnIsolatedAsyncCaller:
    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    def test_gets_a_retryable_error_for_a_key_that_it_cannot_see(self, pg_ledger_url: str, driver: str) -> None:
        url = pg_ledger_url.replace("+psycopg", f"+{driver}")

        async def story(queue: AsyncSendQueue) -> None:
            engine = open_async_engine(url, isolation_level="REPEATABLE READ")
            async with AsyncSession(engine) as session:
                await jobs(session)
                await queue.send("g1", MESSAGE, key="k")
                with pytest.raises(Retryable):
                    await queue.send("g1", MESSAGE, key="k", session=session)
            await engine.dispose()

        on(url, story)


class TestALedgerThatIsNotThere:
    @pytest.mark.parametrize(
        "url",
        [
            "postgresql+asyncpg://somebody:secret@127.0.0.1:1/ledger",
            "postgresql+psycopg://somebody:secret@127.0.0.1:1/ledger",
            "sqlite:////no/such/directory/ledger.db",
        ],
    )
    def test_because_nobody_listens_is_said_so(self, url: str) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            for act in (queue.send("g1", MESSAGE), queue.job(key="k")):
                with pytest.raises(LedgerUnavailable) as caught:
                    await act
                assert "secret" not in str(caught.value)

        on(url, story)

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    def test_because_nobody_migrated_is_said_so_with_the_command(self, pg_url: str, driver: str) -> None:
        url = pg_url.replace("+psycopg", f"+{driver}")

        async def story(queue: AsyncSendQueue) -> None:
            with pytest.raises(SchemaMismatch, match="python -m sendq migrate"):
                await queue.send("g1", MESSAGE)
            engine: Any = open_async_engine(url)
            async with AsyncSession(engine) as session:
                with pytest.raises(SchemaMismatch, match="python -m sendq migrate"):
                    await queue.send("g1", MESSAGE, session=session)
            await engine.dispose()

        on(url, story)

    def test_on_sqlite_too(self, tmp_path: Path) -> None:
        async def story(queue: AsyncSendQueue) -> None:
            with pytest.raises(SchemaMismatch, match="python -m sendq migrate"):
                await queue.send("g1", MESSAGE)

        on(f"sqlite:///{tmp_path}/ledger.db", story)
