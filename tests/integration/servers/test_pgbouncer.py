"""The ledger behind a real PgBouncer in transaction mode: each transaction may meet another server connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from sendq.async_queue import AsyncSendQueue
from sendq.ledger.db import constant, migrate, schema
from sendq.ledger.db.engine import open_async_engine, open_busy_engine, open_engine
from sendq.messages.message import Message
from sendq.queue import SendQueue
from settings import Settings
from tests.support.pgbouncer import BINARY, PgBouncer
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.doctor.check import ledger_items
from worker.leading.wakeup import PostgresWakeup

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no pgbouncer here (on Debian and Ubuntu: apt install pgbouncer)"
)

SERVER_CONNECTIONS = 2
CLIENTS = 3  # no multiple of the server connections, or they could share them out and keep them
TRANSACTIONS = 20

WHO = sa.text("SELECT pg_backend_pid()")


@pytest.fixture(scope="module")
def pgbouncer(pg_server: PgServer) -> Iterator[int]:
    """The port of a PgBouncer in front of the tests' PostgreSQL."""
    bouncer = PgBouncer(pg_server, size=SERVER_CONNECTIONS)
    try:
        yield bouncer.port
    finally:
        bouncer.remove()


@pytest.fixture
def url(pgbouncer: int, pg_url: str) -> sa.URL:
    """The address, through PgBouncer, of a database with the ledger: migrated through PgBouncer, too."""
    url = sa.make_url(pg_url).set(port=pgbouncer)
    migrate.run(url)
    engine = open_engine(url)
    with engine.connect() as first, engine.connect() as second:  # PgBouncer opens a connection when it has to
        assert first.scalar(WHO) != second.scalar(WHO)
    engine.dispose()
    return url


def message(client: int, number: int) -> Message:
    return Message(to=["leyah@example.com"], subject=f"{client}/{number}", body="<p>…</p>")


def accepted(pg_url: str) -> tuple[int, int, int]:
    """Jobs, bodies and keys, counted past PgBouncer."""
    engine = open_engine(pg_url)
    with engine.connect() as connection:
        counts = [
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (schema.job, schema.payload, schema.key)
        ]
    engine.dispose()
    return counts[0], counts[1], counts[2]


class TestAWorkersStatementsBehindPgBouncer:
    def test_are_not_prepared(self, url: sa.URL) -> None:
        engine = open_busy_engine(url, keeps_plans=True)
        numbers = sa.text("SELECT CAST(:n AS int), pg_backend_pid()")
        state = sa.text("SELECT (SELECT count(*) FROM pg_prepared_statements), current_setting('enable_seqscan')")
        with engine.connect() as first, engine.connect() as second:
            met = set()
            for number in range(TRANSACTIONS):
                for connection in (first, second):
                    ((found, session),) = constant.rows(connection, numbers, {"n": number})
                    assert found == number
                    met.add(session)
                    assert connection.execute(state).one() == (0, "on")
                for connection in (first, second) if number % 2 else (second, first):
                    connection.rollback()
        engine.dispose()
        assert len(met) == SERVER_CONNECTIONS


class TestEnqueueBehindPgBouncer:
    """Several clients, each with a connection to PgBouncer that it keeps, at once.

    What a driver remembers of its connection is wrong as soon as its transactions are served by different connections
    to PostgreSQL; so each client has to have met all of them, or nothing was shown.
    """

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    def test_stores_every_job(self, url: sa.URL, pg_url: str, driver: str) -> None:
        engine = open_engine(url.set(drivername=f"postgresql+{driver}"))
        queue = SendQueue(engine)
        together = threading.Barrier(CLIENTS)

        def client(name: int) -> int:
            met = set()
            with engine.connect() as connection:
                for number in range(TRANSACTIONS):
                    together.wait(LIMIT_S)
                    met.add(connection.scalar(WHO))
                    queue.send(f"grant-{name}", message(name, number), key=f"{name}/{number}", session=connection)
                    connection.commit()
            return len(met)

        with ThreadPoolExecutor(CLIENTS) as threads:
            met = list(threads.map(client, range(CLIENTS), timeout=LIMIT_S))
        engine.dispose()
        assert met == [SERVER_CONNECTIONS] * CLIENTS
        assert accepted(pg_url) == (CLIENTS * TRANSACTIONS,) * 3

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    def test_stores_every_job_of_an_event_loop(self, url: sa.URL, pg_url: str, driver: str) -> None:
        async def client(engine: AsyncEngine, name: int) -> int:
            queue = AsyncSendQueue(engine)
            met = set()
            async with engine.connect() as connection:
                for number in range(TRANSACTIONS):
                    met.add(await connection.scalar(WHO))
                    await queue.send(f"grant-{name}", message(name, number), key=f"{name}/{number}", session=connection)
                    await connection.commit()
            return len(met)

        async def run() -> list[int]:
            engine = open_async_engine(url.set(drivername=f"postgresql+{driver}"))
            try:
                async with asyncio.timeout(60):
                    return await asyncio.gather(*(client(engine, name) for name in range(CLIENTS)))
            finally:
                await engine.dispose()

        assert asyncio.run(run()) == [SERVER_CONNECTIONS] * CLIENTS
        assert accepted(pg_url) == (CLIENTS * TRANSACTIONS,) * 3


class TestThisPgBouncer:
    def test_hands_each_transaction_to_whichever_connection_is_free(self, url: sa.URL) -> None:
        engine = open_engine(url)
        with engine.connect() as first, engine.connect() as second:
            held = first.scalar(WHO)
            other = second.scalar(WHO)
            first.commit()
            with engine.connect() as third:
                assert third.scalar(WHO) == held
                second.commit()
                assert first.scalar(WHO) == other
        engine.dispose()


class TestNotificationsBehindPgBouncer:
    """In transaction mode LISTEN succeeds, and nothing is ever received."""

    def test_are_not_waited_for(self, url: sa.URL, pg_url: str) -> None:
        can = {}
        for name, address in (("behind", url), ("direct", sa.make_url(pg_url))):
            engine = open_engine(address)
            wakeup = PostgresWakeup(engine)
            can[name] = wakeup.can_notify
            wakeup.close()
            engine.dispose()
        assert can == {"behind": False, "direct": True}

    def test_are_missed_by_check(self, url: sa.URL, pg_url: str) -> None:
        found = {}
        for name, address in (("behind", url), ("direct", sa.make_url(pg_url))):
            text = address.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
            items = ledger_items(Settings(database_url=text))
            found[name] = [item.state for item in items if item.name == "ledger notifications"]
        assert found == {"behind": ["warn"], "direct": []}
