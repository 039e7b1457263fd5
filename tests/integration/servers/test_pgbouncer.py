"""The ledger behind a real PgBouncer in transaction mode: each transaction may meet another server connection."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from sendq.async_queue import AsyncSendQueue
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_async_engine, open_engine
from sendq.messages.message import Message
from sendq.queue import SendQueue
from settings import Settings
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.doctor.check import ledger_items
from worker.leading.wakeup import PostgresWakeup
from worker.processes.guard import Guarded

# Debian installs it where an ordinary user's PATH does not lead.
BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no pgbouncer here (on Debian and Ubuntu: apt install pgbouncer)"
)

SERVER_CONNECTIONS = 2
CLIENTS = 3  # no multiple of the server connections, or they could share them out and keep them
TRANSACTIONS = 20

WHO = sa.text("SELECT pg_backend_pid()")

CONFIGURATION = """
[databases]
* = host={server.host} port={server.port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_round_robin = 1
logfile = {home}/pgbouncer.log
"""


@pytest.fixture(scope="module")
def pgbouncer(pg_server: PgServer) -> Iterator[int]:
    """The port of a PgBouncer in front of the tests' PostgreSQL."""
    as_other = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # like PostgreSQL, it refuses to run as root
    home = Path(tempfile.mkdtemp(prefix="sendq-pgbouncer-", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = home / "pgbouncer.ini"
    settings.write_text(CONFIGURATION.format(server=pg_server, port=port, size=SERVER_CONNECTIONS, home=home))
    if as_other:
        shutil.chown(home, as_other.pw_uid, as_other.pw_gid)
    assert BINARY is not None
    server = Guarded(
        [BINARY, settings],
        log=home / "output.log",
        user=as_other.pw_uid if as_other else None,
        group=as_other.pw_gid if as_other else None,
        remove=[home],
    )
    try:
        wait_for(server, port)
        yield port
    finally:
        server.stop()


def wait_for(server: Guarded, port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.ended() or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


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
