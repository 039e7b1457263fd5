"""The connections of a worker process: which are asked whether they live, and what happens to those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format
from sqlalchemy import Connection, Engine, exc, make_url, text

from sendq.errors import LedgerUnavailable, Retryable, SchemaMismatch
from sendq.ledger.db import constant, direct
from sendq.ledger.db.engine import FRESH_S, open_async_engine, open_busy_engine, open_engine, reading, writing
from sendq.ledger.db.kept_connection import KeptConnection
from tests.support.servers import PgServer

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


@pytest.fixture
def own(engine: Engine, stopwatch: Stopwatch) -> Iterator[KeptConnection]:
    own = KeptConnection(engine, monotonic=stopwatch)
    yield own
    own.close()


def asked_of(own: KeptConnection) -> int:
    with own.writing() as connection:
        return int(connection.execute(PID).scalar_one())


def asked(engine: Engine) -> int:
    """Ask something; the session that answered."""
    with reading(engine) as connection:
        return int(connection.execute(PID).scalar_one())


def asked_directly(engine: Engine) -> int:
    """The same by a statement that goes to the driver itself."""
    with reading(engine) as connection:
        return int(constant.rows(connection, PID, {})[0][0])


class TestAConnectionThatAThreadKeeps:
    def test_is_the_same_for_all_its_transactions(self, engine: Engine, own: KeptConnection) -> None:
        sessions = {asked_of(own) for _ in range(3)}
        assert len(sessions) == 1
        assert sessions != {asked(engine)}  # which the pool gives to no one else
        own.close()
        assert sessions == {asked(engine)}

    def test_commits_and_rolls_back(self, engine: Engine, own: KeptConnection) -> None:
        with own.writing() as connection:
            connection.execute(text("CREATE TABLE kept (id int)"))
        with pytest.raises(exc.DataError), own.writing() as connection:
            connection.execute(text("INSERT INTO kept VALUES (1 / 0)"))
        with own.writing() as connection:
            constant.rows(connection, text("INSERT INTO kept VALUES (2)"), {})
        with reading(engine) as connection:
            assert connection.execute(text("SELECT id FROM kept")).scalars().all() == [2]

    def test_is_replaced_if_it_breaks_within_a_transaction(self, own: KeptConnection) -> None:
        first = asked_of(own)
        end = text("SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(LedgerUnavailable), own.writing() as connection:
            connection.execute(end)
        assert asked_of(own) != first


@pytest.fixture(params=["SQLAlchemy", "the driver", "a kept connection"])
def ask(request: pytest.FixtureRequest, engine: Engine, own: KeptConnection) -> Callable[[], int]:
    """Asks something by each way; the session that answered."""
    ways = {
        "SQLAlchemy": partial(asked, engine),
        "the driver": partial(asked_directly, engine),
        "a kept connection": partial(asked_of, own),
    }
    return ways[request.param]


class TestAConnectionThatTheServerEnded:
    def test_is_replaced_unseen_if_it_has_rested(
        self, stopwatch: Stopwatch, pg_server: PgServer, ask: Callable[[], int]
    ) -> None:
        first = ask()
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        stopwatch.at += FRESH_S * 1.5
        assert ask() != first

    def test_breaks_off_one_transaction_if_it_was_just_in_use(
        self, pg_server: PgServer, ask: Callable[[], int]
    ) -> None:
        first = ask()
        pg_server.execute(f"SELECT pg_terminate_backend({first}, 5000)")
        with pytest.raises(LedgerUnavailable):
            ask()
        assert ask() != first


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


@pytest.fixture
def keeping(pg_url: str) -> Iterator[Engine]:
    """An engine with one connection, which keeps plans."""
    engine = open_busy_engine(pg_url, keeps_plans=True, pool_size=1, max_overflow=0)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE fruit (id int PRIMARY KEY, weight int)"))
        connection.execute(text("INSERT INTO fruit VALUES (1, 10), (2, 20)"))
    yield engine
    engine.dispose()


PREPARED = text("SELECT statement FROM pg_prepared_statements WHERE generic_plans > 0 ORDER BY name")
ALL_FRUIT = text("SELECT id, weight FROM fruit WHERE weight > CAST(:more AS int) ORDER BY id")


def fruit(engine: Engine, more: int = 0) -> list[tuple[int, int]]:
    with reading(engine) as connection:
        return [(row[0], row[1]) for row in constant.rows(connection, ALL_FRUIT, {"more": more})]


def prepared(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return [row[0] for row in connection.execute(PREPARED)]


class TestAConnectionThatKeepsPlans:
    def test_prepares_what_is_executed_again_whatever_its_values(self, keeping: Engine) -> None:
        assert fruit(keeping) == [(1, 10), (2, 20)]
        assert prepared(keeping) == []
        assert [fruit(keeping, more) for more in (0, 15, 2**31 - 1)] == [[(1, 10), (2, 20)], [(2, 20)], []]
        assert len(prepared(keeping)) == 1

    def test_remembers_so_many_and_then_begins_again(self, keeping: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(direct, "PREPARED_MOST", 3)
        statements = [text(f"SELECT {number}, CAST(:n AS int)") for number in range(5)]
        for statement in statements * 3:
            for _ in range(3):
                with reading(keeping) as connection:
                    assert constant.rows(connection, statement, {"n": 7})[0][1] == 7
        assert 0 < len(prepared(keeping)) <= 3

    @pytest.mark.parametrize("keeps_plans", [True, False])
    def test_leaves_no_lock_behind_when_its_process_is_frozen(
        self, pg_url: str, monkeypatch: pytest.MonkeyPatch, keeps_plans: bool
    ) -> None:
        monkeypatch.setattr(direct, "ENDING_FROZEN", b"SET idle_in_transaction_session_timeout = '300ms'")
        take = text("SELECT pg_advisory_xact_lock(7)")
        frozen, other = open_busy_engine(pg_url, keeps_plans=keeps_plans), open_busy_engine(pg_url)
        try:
            with frozen.connect() as connection:
                constant.rows(connection, take, {})
                with writing(other) as waiting:
                    constant.rows(waiting, take, {})
                with pytest.raises(exc.DBAPIError, match="idle-in-transaction"):
                    constant.rows(connection, take, {})
        finally:
            frozen.dispose()
            other.dispose()

    def test_goes_on_when_a_migration_adds_a_column_or_an_index(self, keeping: Engine, pg_url: str) -> None:
        session = asked(keeping)
        for change in ("ADD COLUMN color text", "ADD UNIQUE (weight)", "DROP COLUMN color"):
            assert fruit(keeping) == fruit(keeping) == [(1, 10), (2, 20)]
            _change_fruit(pg_url, change)
        assert fruit(keeping) == [(1, 10), (2, 20)]
        assert asked(keeping) == session

    def test_is_replaced_when_a_migration_changes_what_a_statement_returns(self, keeping: Engine, pg_url: str) -> None:
        for _ in range(2):
            assert fruit(keeping) == fruit(keeping) == [(1, 10), (2, 20)]
            _change_fruit(pg_url, "ALTER COLUMN weight TYPE bigint")
            with pytest.raises(Retryable, match="migration"):
                fruit(keeping)
            assert fruit(keeping) == fruit(keeping) == [(1, 10), (2, 20)]
            assert prepared(keeping)
            _change_fruit(pg_url, "ALTER COLUMN weight TYPE int")
            with pytest.raises(Retryable, match="migration"):
                fruit(keeping)

    @pytest.mark.parametrize("forgets", ["DISCARD ALL", "DEALLOCATE ALL"])
    def test_is_replaced_by_one_that_keeps_none_when_the_session_forgets(self, keeping: Engine, forgets: str) -> None:
        fruit(keeping), fruit(keeping)
        with keeping.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(forgets))
        with pytest.raises(Retryable, match="prepared"):
            fruit(keeping)
        for _ in range(3):
            assert fruit(keeping) == [(1, 10), (2, 20)]
        assert prepared(keeping) == []

    def test_is_replaced_by_one_that_keeps_none_when_the_name_is_taken(self, keeping: Engine) -> None:
        with keeping.connect() as connection:
            connection.execute(text("PREPARE sendq_1 AS SELECT 1"))
            connection.commit()
        fruit(keeping)
        with pytest.raises(Retryable, match="prepared"):
            fruit(keeping)
        assert fruit(keeping) == fruit(keeping) == [(1, 10), (2, 20)]

    def test_says_what_is_wrong_as_any_other(self, keeping: Engine) -> None:
        for statement in (text("SELECT 1 / CAST(:n AS int)"), text("SELECT CAST(:n AS int) FROM nothing")):
            for _ in range(3):
                with pytest.raises((exc.DataError, SchemaMismatch)), reading(keeping) as connection:
                    constant.rows(connection, statement, {"n": 0})
        assert fruit(keeping) == [(1, 10), (2, 20)]


def _change_fruit(url: str, change: str) -> None:
    other = open_engine(url)
    with writing(other) as connection:
        connection.execute(text(f"ALTER TABLE fruit {change}"))
    other.dispose()


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
