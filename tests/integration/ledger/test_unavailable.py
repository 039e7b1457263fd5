"""A ledger that answers and cannot be used: each cause in its own words, and it is used again as soon as it can be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from sendq import AsyncSendQueue, LedgerUnavailable, Retryable, SendQueue
from sendq.ledger.db.engine import open_engine, translated, writing
from tests.support.ledger import MESSAGE
from tests.support.servers import PgServer


@pytest.fixture
def database(pg_server: PgServer) -> Iterator[str]:
    """The name of a new ledger."""
    with pg_server.ledger() as url:
        yield url.rpartition("/")[2]


@contextmanager
def read_only(server: PgServer, database: str) -> Iterator[None]:
    """New connections are read-only, as after a failover to a reader, and stay so when the primary is back."""
    server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'")
    try:
        yield
    finally:
        server.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")


class TestALedgerThatTakesNoWrites:
    @pytest.mark.parametrize("own", [True, False], ids=["an address", "the application's engine"])
    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    def test_is_named_and_used_again_once_it_does(
        self, pg_server: PgServer, database: str, driver: str, own: bool
    ) -> None:
        url = pg_server.url(database, driver)
        ledger = url if own else create_engine(url, pool_pre_ping=True)
        queue = SendQueue(ledger)
        first = queue.send("g1", MESSAGE)
        with read_only(pg_server, database):
            assert queue.job(first.id).id == first.id
            for _ in range(3):
                with pytest.raises(LedgerUnavailable, match="takes no writes"):
                    queue.send("g1", MESSAGE)
        assert queue.send("g1", MESSAGE).id != first.id
        queue.close()

    def test_is_left_by_all_connections_after_the_first_refusal(self, pg_server: PgServer, database: str) -> None:
        engine = open_engine(pg_server.url(database))
        insert = text("INSERT INTO sendq_wake (grant_id) SELECT 'x' WHERE false")
        with read_only(pg_server, database), engine.connect(), engine.connect(), engine.connect():
            pass  # three that were made while the ledger was read-only
        with pytest.raises(LedgerUnavailable), writing(engine) as connection:
            connection.execute(insert)
        for _ in range(4):
            with writing(engine) as connection:
                connection.execute(insert)
        engine.dispose()

    @pytest.mark.parametrize("own", [True, False], ids=["an address", "the application's engine"])
    @pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
    def test_is_named_and_used_again_with_asyncio(
        self, pg_server: PgServer, database: str, driver: str, own: bool
    ) -> None:
        url = pg_server.url(database, driver)

        async def use() -> None:
            queue = AsyncSendQueue(url if own else create_async_engine(url, pool_pre_ping=True))
            await queue.send("g1", MESSAGE)
            with read_only(pg_server, database):
                for _ in range(3):
                    with pytest.raises(LedgerUnavailable, match="takes no writes"):
                        await queue.send("g1", MESSAGE)
            await queue.send("g1", MESSAGE)
            await queue.close()

        asyncio.run(use())

    def test_in_the_session_of_the_application_is_named(self, pg_server: PgServer, database: str) -> None:
        engine = create_engine(pg_server.url(database))
        with engine.connect() as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            with pytest.raises(LedgerUnavailable, match="takes no writes"):
                SendQueue(engine).send("g1", MESSAGE, session=connection)
        engine.dispose()


CAUSES = {
    "25006": "takes no writes",
    "57P01": "starting, stopping or recovering",
    "57P02": "starting, stopping or recovering",
    "57P03": "starting, stopping or recovering",
    "25P03": "ended the connection",
    "53100": "disk is full",
    "53200": "out of memory",
    "53300": "no connection left",
    "57014": "statement_timeout",
    "08006": "cannot be reached",
    "08P01": "cannot be reached",
    "58030": "an internal error",
    "42501": "SELECT, INSERT, UPDATE and DELETE",
}


class TestAnErrorOfTheServer:
    @pytest.mark.parametrize("state", CAUSES)
    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    def test_is_told_by_its_cause(self, pg_server: PgServer, driver: str, state: str) -> None:
        engine = open_engine(pg_server.url(driver=driver))
        with pytest.raises(LedgerUnavailable, match=CAUSES[state]), writing(engine) as connection:
            connection.execute(raises(state))
        with writing(engine) as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        engine.dispose()

    @pytest.mark.parametrize("state", CAUSES)
    def test_is_told_by_its_cause_with_asyncpg(self, pg_server: PgServer, state: str) -> None:
        engine = create_async_engine(pg_server.url(driver="asyncpg"))

        async def use() -> None:
            try:
                with translated():
                    async with engine.begin() as connection:
                        await connection.execute(raises(state))
            finally:
                await engine.dispose()

        with pytest.raises(LedgerUnavailable, match=CAUSES[state]):
            asyncio.run(use())

    def test_that_comes_of_other_transactions_can_be_tried_again(self, pg_server: PgServer) -> None:
        engine = open_engine(pg_server.url())
        for state in ("40001", "40P01", "55P03"):
            with pytest.raises(Retryable), writing(engine) as connection:
                connection.execute(raises(state))
        with pytest.raises(LedgerUnavailable, match="replica"), writing(engine) as connection:
            connection.execute(raises("40001", "canceling statement due to conflict with recovery"))
        engine.dispose()


class TestAServerThatRefusesTheConnection:
    @pytest.fixture(params=["psycopg", "psycopg2", "asyncpg"])
    def refused(self, request: pytest.FixtureRequest, pg_server: PgServer, database: str) -> Any:
        """Try to send as a role ``web``, to a database; returns what is said."""
        role = f"web_{database}"
        pg_server.execute(f"CREATE ROLE {role} LOGIN")

        def refused(name: str = database, user: str = role) -> str:
            url = pg_server.url(name, request.param).replace("postgres@", f"{user}@")

            async def send_async() -> None:
                queue = AsyncSendQueue(url)
                try:
                    await queue.send("g1", MESSAGE)
                finally:
                    await queue.close()

            def send() -> None:
                if request.param == "asyncpg":
                    asyncio.run(send_async())
                else:
                    with closing(SendQueue(url)) as queue:
                        queue.send("g1", MESSAGE)

            with pytest.raises(LedgerUnavailable) as caught:
                send()
            assert role not in str(caught.value)
            return str(caught.value)

        yield refused
        pg_server.execute(f"DROP ROLE {role}")

    def test_says_why(self, refused: Any, pg_server: PgServer, database: str) -> None:
        assert "no such database" in refused("no_such_database")
        assert "rejects the user" in refused(user="no_such_role")
        assert "SELECT, INSERT, UPDATE and DELETE" in refused()  # a web role without rights
        pg_server.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
        assert "no connection left" in refused()
        pg_server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        assert "does not accept connections" in refused()


def raises(state: str, message: str = "an error") -> Any:
    """A statement that ends with an error of this SQLSTATE."""
    return text(f"DO $$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{state}'; END $$")
