"""What is around an enqueue: a ledger that is away, a fork, and what is imported for it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from sendq import (
    AsyncSendQueue,
    LedgerUnavailable,
    Retryable,
    SchemaMismatch,
    SendQueue,
)
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_async_engine, open_engine, translated
from tests.integration.ledger.test_enqueue import counts
from tests.support.ledger import MESSAGE, Ledger
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S


class TestALedgerThatIsNotThere:
    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    def test_because_nobody_listens_is_said_so(self, driver: str) -> None:
        queue = SendQueue(f"postgresql+{driver}://somebody:secret@127.0.0.1:1/ledger")
        with pytest.raises(LedgerUnavailable) as caught:
            queue.send("g1", MESSAGE)
        assert "secret" not in str(caught.value)

    def test_because_its_file_cannot_be_opened_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerUnavailable):
            SendQueue(f"sqlite:///{tmp_path}/no/such/directory/ledger.db").send("g1", MESSAGE)

    @pytest.mark.parametrize("joined", [False, True])
    def test_because_nobody_migrated_is_said_so_with_the_command(self, tmp_path: Path, joined: bool) -> None:
        engine = open_engine(f"sqlite:///{tmp_path}/ledger.db")
        with engine.connect() as connection, pytest.raises(SchemaMismatch, match="python -m sendq migrate"):
            SendQueue(engine).send("g1", MESSAGE, session=connection if joined else None)
        engine.dispose()

    def test_on_postgresql_too(self, pg_url: str) -> None:
        engine = open_engine(pg_url)
        with engine.connect() as connection, pytest.raises(SchemaMismatch, match="python -m sendq migrate"):
            SendQueue(engine).send("g1", MESSAGE, session=connection)
        engine.dispose()

    def test_because_another_version_migrated_is_said_so(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = 'of tomorrow'"))
        with pytest.raises(SchemaMismatch, match="upgrade sendq"):
            ledger.queue.send("g1", MESSAGE)

    def test_any_more_is_said_so_and_passes(self, pg_server: PgServer, pg_ledger: Ledger) -> None:
        """Its connections are cut; the queue finds that out and opens new ones."""
        pg_ledger.send()
        with Session(pg_ledger.engine) as session:
            pg_ledger.queue.send("g1", MESSAGE, session=session)
            name = pg_ledger.engine.url.database
            pg_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            with pytest.raises(LedgerUnavailable):
                pg_ledger.queue.send("g1", MESSAGE, session=session)
            session.rollback()
        pg_ledger.send()
        assert counts(pg_ledger)["job"] == 2

    def test_but_other_errors_of_the_database_come_out_as_they_are(self, ledger: Ledger) -> None:
        with pytest.raises(Exception) as caught, translated(), ledger.engine.connect() as connection:
            connection.execute(text("SELECT nonsense("))
        assert not isinstance(caught.value, LedgerUnavailable | Retryable | SchemaMismatch)


class TestAQueueMadeBeforeAFork:
    def test_works_in_parent_and_child_at_the_same_time(self, ledger_url: str) -> None:
        script = f"""
import os
from sendq import Message, SendQueue
from tests.support.ledger import MESSAGE
queue = SendQueue({ledger_url!r})
queue.send("before", MESSAGE)  # its connection is in the pool when the process forks
read, write = os.pipe()
child = os.fork()
name = "parent" if child else "child"
if child:
    os.close(write)
    os.read(read, 1)  # until the child is under way
else:
    os.write(write, b".")
for _ in range(30):
    queue.send(name, MESSAGE)
queue.close()
if child:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=os.getcwd(), check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        engine = open_engine(ledger_url)
        with engine.connect() as connection:
            grants = connection.execute(select(schema.wake.c.grant_id)).scalars().all()
        engine.dispose()
        assert {name: grants.count(name) for name in set(grants)} == {"before": 1, "parent": 30, "child": 30}


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def async_url(request: pytest.FixtureRequest) -> str:
    """The address of a migrated ledger, for each asyncio driver."""
    if request.param == "aiosqlite":
        return str(request.getfixturevalue("sqlite_ledger_url"))
    return str(request.getfixturevalue("pg_ledger_url")).replace("+psycopg", f"+{request.param}")


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=LIMIT_S, cwd=os.getcwd()
    )
    assert (done.returncode, done.stderr) == (0, "")


def grants_of(url: str) -> dict[str, int]:
    """How many jobs each grant has."""
    engine = open_engine(url.replace("+asyncpg", "+psycopg"))
    with engine.connect() as connection:
        grants = connection.execute(select(schema.wake.c.grant_id)).scalars().all()
    engine.dispose()
    return {name: grants.count(name) for name in set(grants)}


ASYNC = """
import asyncio, os, threading
from sendq import AsyncSendQueue
from sendq.ledger.db.engine import open_async_engine
from tests.support.ledger import MESSAGE
async def send(name, times, close=False):
    await asyncio.gather(*(queue.send(name, MESSAGE) for _ in range(times)))
    assert (await queue.grant(name)).waiting == times
    if close:
        await queue.close()
"""


class TestAnAsyncQueue:
    def test_serves_event_loops_one_after_another_and_at_once(self, async_url: str) -> None:
        run(
            ASYNC
            + f"""
for queue in (AsyncSendQueue({async_url!r}), AsyncSendQueue(open_async_engine({async_url!r}))):
    for number in range(4): asyncio.run(send(f"{{type(queue._ledger._url).__name__}}{{number}}", 3))
queue = AsyncSendQueue({async_url!r})
def story(number):
    for again in range(3): asyncio.run(send(f"g{{number}}{{again}}", 5, close=again == 2))
threads = [threading.Thread(target=story, args=[number]) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
        )
        after_another = {f"{kind}{number}": 3 for kind in ("str", "NoneType") for number in range(4)}
        at_once = {f"g{number}{again}": 5 for number in range(4) for again in range(3)}
        assert grants_of(async_url) == after_another | at_once

    def test_made_and_used_before_a_fork_works_in_parent_and_children(self, async_url: str) -> None:
        run(
            ASYNC
            + f"""
queues = [AsyncSendQueue({async_url!r}), AsyncSendQueue(open_async_engine({async_url!r}))]
for kind, queue in enumerate(queues): asyncio.run(send(f"before{{kind}}", 2))
# The thread of a SQLite connection ends a moment after it, and from CPython 3.12 on a fork warns until then.
for thread in set(threading.enumerate()) - {{threading.current_thread()}}: thread.join()
tasks = "/proc/self/task"  # on Linux: a thread that was joined may be there still
while os.path.exists(tasks) and len(os.listdir(tasks)) > 1: os.sched_yield()
children = []
for number in range(2):
    child = os.fork()
    if child == 0:
        for kind, queue in enumerate(queues):
            for again in range(2):
                asyncio.run(send(f"child{{number}}{{kind}}{{again}}", 5))
        os._exit(0)
    children.append(child)
for kind, queue in enumerate(queues): asyncio.run(send(f"parent{{kind}}", 5, close=True))
raise SystemExit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""
        )
        children = {f"child{number}{kind}{again}": 5 for number in (0, 1) for kind in (0, 1) for again in (0, 1)}
        assert grants_of(async_url) == {"before0": 2, "before1": 2, "parent0": 5, "parent1": 5} | children

    def test_refuses_to_share_an_engine_between_running_loops(self, sqlite_ledger_url: str) -> None:
        async def used() -> None:
            await queue.grant("g")

        async def story() -> None:
            await used()
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, used())

        queue = AsyncSendQueue(open_async_engine(sqlite_ledger_url))
        asyncio.run(story())

    def test_takes_an_address_as_libpq_does(self, pg_ledger_url: str) -> None:
        async def story(query: str) -> str:
            queue = AsyncSendQueue(f"{address}?{query}")
            try:
                await queue.grant("g")
                async with queue._ledger.engine.connect() as connection:
                    return str(await connection.scalar(text("SHOW application_name")))
            finally:
                await queue.close()

        address = pg_ledger_url.replace("+psycopg", "+asyncpg").partition("?")[0]
        assert asyncio.run(story("sslmode=disable&application_name=shop&connect_timeout=7")) == "shop"
        assert asyncio.run(story("sslmode=prefer&options=-c%20application_name%3Dstore")) == "store"
        with pytest.raises(LedgerUnavailable):  # this server has no TLS
            asyncio.run(story("sslmode=require&application_name=shop"))


class TestWhereProcessesDoNotFork:
    def test_queues_work_all_the_same(self, sqlite_ledger_url: str) -> None:
        run(
            # As on Windows. The standard library is loaded before, since it knows by the platform what there is.
            "import asyncio, concurrent.futures.thread, logging, os, random; del os.register_at_fork\n"
            + ASYNC
            + "from sendq import SendQueue\n"
            + f"SendQueue({sqlite_ledger_url!r}).send('sync', MESSAGE)\n"
            + f"queue = AsyncSendQueue({sqlite_ledger_url!r})\n"
            + "asyncio.run(send('async', 1))\n"
        )
        assert grants_of(sqlite_ledger_url) == {"sync": 1, "async": 1}


class TestWhatIsImported:
    def test_by_a_star_needs_no_greenlet(self) -> None:
        run("import sys; sys.modules['greenlet'] = None\nfrom sendq import *\nMessage, SendQueue")

    def test_is_no_broker_no_http_client_and_no_environment(self) -> None:
        script = (
            "import sys, sendq; sendq.SendQueue('sqlite://').close();"
            "print(sorted({'celery', 'kombu', 'redis', 'aiohttp', 'requests', 'httpx', 'settings', 'tasks', 'worker'}"
            " & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
