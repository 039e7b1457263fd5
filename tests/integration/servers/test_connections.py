"""The connections of a worker process: which are asked whether they live, and what happens to those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from sqlalchemy import Connection, Engine, exc, make_url, text

from sendq.errors import LedgerUnavailable
from sendq.ledger.db import constant
from sendq.ledger.db.engine import FRESH_S, open_async_engine, open_busy_engine, open_engine, reading, writing
from tests.support.servers import PgServer

Asked = Callable[[Engine], int]
PID = text("SELECT pg_backend_pid()")


class Stopwatch:
    """Goes only when told."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


@pytest.fixture
def engine(pg_url: str, stopwatch: Stopwatch) -> Iterator[Engine]:
    engine = open_busy_engine(pg_url, monotonic=stopwatch)
    yield engine
    engine.dispose()


def asked(engine: Engine) -> int:
    """Ask something; the session that answered."""
    with reading(engine) as connection:
        return int(connection.execute(PID).scalar_one())


def asked_directly(engine: Engine) -> int:
    """The same by a statement that goes to the driver itself."""
    with reading(engine) as connection:
        return int(constant.rows(connection, PID, {})[0][0])


@pytest.mark.parametrize("asked", [asked, asked_directly])
class TestAConnectionThatTheServerEnded:
    def test_is_replaced_unseen_if_it_has_rested(
        self, engine: Engine, stopwatch: Stopwatch, pg_server: PgServer, asked: Asked
    ) -> None:
        first = asked(engine)
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        stopwatch.at += FRESH_S * 1.5
        assert asked(engine) != first

    def test_breaks_off_one_transaction_if_it_was_just_in_use(
        self, engine: Engine, pg_server: PgServer, asked: Asked
    ) -> None:
        first = asked(engine)
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        with pytest.raises(LedgerUnavailable):
            asked(engine)
        assert asked(engine) != first


class TestADirectStatement:
    def test_may_use_a_value_twice_and_have_a_percent_sign(self, engine: Engine) -> None:
        with reading(engine) as connection:
            statement = text("SELECT 10 % CAST(:a AS int), 'a%', CAST(:b AS text), CAST(:a AS int)")
            assert constant.rows(connection, statement, {"a": 3, "b": "%(a)s"}) == [(1, "a%", "%(a)s", 3)]

    def test_is_read_committed_whatever_the_databases_default_is(self, engine: Engine, pg_server: PgServer) -> None:
        level = text("SHOW transaction_isolation")
        pg_server.execute(f"ALTER DATABASE {engine.url.database} SET default_transaction_isolation = serializable")
        with reading(engine) as connection:
            assert constant.rows(connection, level, {}) == [("read committed",)]

    def test_shares_its_transaction_with_statements_of_sqlalchemy(self, engine: Engine) -> None:
        xid = text("SELECT CAST(pg_current_xact_id() AS text)")
        for first, second in ((0, 1), (1, 0)):
            with reading(engine) as connection:
                ways = (lambda: connection.execute(xid).scalar_one(), lambda: constant.rows(connection, xid, {})[0][0])
                assert ways[first]() == ways[second]()

    def test_that_fails_leaves_a_connection_that_works(self, engine: Engine) -> None:
        first = asked_directly(engine)
        with pytest.raises(exc.DataError), reading(engine) as connection:
            constant.rows(connection, text("SELECT 1 / 0"), {})
        with reading(engine) as connection:
            with pytest.raises(exc.DataError):
                constant.rows(connection, text("SELECT 1 / 0"), {})
            connection.commit()  # of an aborted transaction: PostgreSQL rolls it back
            assert constant.rows(connection, PID, {}) == [(first,)]

    @pytest.mark.parametrize("ending", [Connection.commit, Connection.rollback])
    def test_whose_server_is_gone_at_the_end_of_the_transaction_says_so(
        self, engine: Engine, pg_server: PgServer, ending: Callable[[Connection], None]
    ) -> None:
        first = asked_directly(engine)

        def end() -> None:
            with writing(engine) as connection:
                assert constant.rows(connection, PID, {}) == [(first,)]
                pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
                ending(connection)

        with pytest.raises(LedgerUnavailable):
            end()
        assert asked_directly(engine) != first


class TestAList:
    def test_goes_to_the_server_as_it_is_and_not_spelled_out(self, engine: Engine) -> None:
        with engine.connect() as connection:
            psycopg_one: Any = connection.connection.driver_connection
            dumper = Transformer(psycopg_one).get_dumper([b"a body"], PyFormat.AUTO)
        assert dumper.format is Format.BINARY

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("bytea", [b"", b"\x00\xff", None]),
            ("text", ["", "NULL", '{"a", \\}', "\u00e9\n", None]),
            ("bigint", [0, -1, 2**62, None]),
            ("boolean", [True, False, None]),
            ("uuid", [UUID(int=1), None]),
            ("integer", [None, None]),
            ("integer", []),
        ],
    )
    def test_arrives_whatever_is_in_it(self, engine: Engine, kind: str, values: list[Any]) -> None:
        with reading(engine) as connection:
            given = text(f"SELECT v FROM unnest(CAST(:values AS {kind}[])) WITH ORDINALITY AS a (v, n) ORDER BY n")
            assert connection.execute(given, {"values": values}).scalars().all() == values


class TestAConnectionThatLives:
    def test_is_asked_so_only_after_a_rest(
        self, engine: Engine, stopwatch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ping, asked_for_life = engine.dialect.do_ping, []

        def count(connection: Any) -> bool:
            asked_for_life.append(connection)
            return ping(connection)

        monkeypatch.setattr(engine.dialect, "do_ping", count)
        for _ in range(5):
            asked(engine)
        assert asked_for_life == []
        stopwatch.at += FRESH_S * 1.5
        asked(engine)
        assert len(asked_for_life) == 1

    def test_is_used_again_before_one_that_rests(self, engine: Engine) -> None:
        with reading(engine) as one, reading(engine) as other:
            sessions = {one.execute(PID).scalar_one(), other.execute(PID).scalar_one()}
        assert len(sessions) == 2
        assert len({asked(engine) for _ in range(4)}) == 1


class TestATransaction:
    def test_is_read_committed_whatever_the_default_of_the_database(self, pg_server: PgServer, pg_url: str) -> None:
        url = make_url(pg_url)
        pg_server.execute(f"ALTER DATABASE {url.database} SET default_transaction_isolation = 'serializable'")
        ask = text("SELECT current_setting('transaction_isolation'), current_setting('default_transaction_isolation')")
        found = []
        for driver in ("psycopg", "psycopg2"):
            engine = open_engine(url.set(drivername=f"postgresql+{driver}"))
            with writing(engine) as connection:
                found.append(connection.execute(ask).one())
            engine.dispose()

        async def story(driver: str) -> None:
            engine = open_async_engine(url.set(drivername=f"postgresql+{driver}"))
            async with engine.begin() as connection:
                found.append((await connection.execute(ask)).one())
            await engine.dispose()

        for driver in ("psycopg", "asyncpg"):
            asyncio.run(story(driver))
        assert found == [("read committed", "serializable")] * 4
