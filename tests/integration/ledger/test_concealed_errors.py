"""Nothing of a mail is in an error that the application sees: on engines of its own, with every driver.

Whether the database's error is translated or passed on, its traceback is printed with the local variables of every
frame, as error trackers do.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sendq import AsyncSendQueue, LedgerUnavailable, Message, Retryable, SendQueue
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine

ROOT = Path(__file__).parents[3]

MARKS = ("markaddress", "markname", "marksubject", "markbody", "markmeta")
# Read from a file where a frame's variable must not hold them.
MAIL = Message(
    to=[{"email": "markaddress@example.com", "name": "markname"}],
    subject="marksubject",
    body="markbody " * 20,
    metadata={"markmeta": "markmeta"},
)
GRANT = "g1"

# What the database refuses, and how: by the name of the case, the statements that prepare it.
REFUSALS = {
    "sqlite": {"trigger": "CREATE TRIGGER no BEFORE INSERT ON sendq_payload BEGIN SELECT RAISE(ABORT, 'no'); END"},
    "postgresql": {
        "check": "ALTER TABLE sendq_payload ADD CONSTRAINT no CHECK (octet_length(body) < 3) NOT VALID",
        "quoting": """
            CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'no'
                    USING DETAIL = convert_from(NEW.body, 'UTF8'), HINT = convert_from(NEW.body, 'UTF8');
            END $$;
            CREATE TRIGGER no BEFORE INSERT ON sendq_payload FOR EACH ROW EXECUTE FUNCTION no()""",
        "value": """
            CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM convert_from(NEW.body, 'UTF8')::int; RETURN NEW;
            END $$;
            CREATE TRIGGER no BEFORE INSERT ON sendq_payload FOR EACH ROW EXECUTE FUNCTION no()""",
    },
}


def printed(error: BaseException) -> str:
    """As an error tracker and a log would show it."""
    full = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(full.format()) + repr(error) + str(pickle.dumps(str(error)))


def marks_in(error: BaseException) -> list[str]:
    """The lines that show some of the mail."""
    marks = {form for mark in MARKS for form in (mark, mark.encode().hex())}
    return [line for line in printed(error).splitlines() if any(mark in line for mark in marks)]


def assert_concealed(error: BaseException) -> None:
    assert "INSERT INTO sendq_payload" in printed(error), "it still says which statement failed"
    assert marks_in(error) == []


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2", "aiosqlite", "asyncpg", "async psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, driver: str, tmp_path: Path) -> sa.URL:
    """The address of a migrated ledger, as an application writes it."""
    if "sqlite" in driver:
        found = sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    else:
        found = sa.make_url(request.getfixturevalue("pg_url"))
    migrate.run(found)
    if driver == "aiosqlite":
        return found.set(drivername="sqlite+aiosqlite")
    return found if driver == "sqlite" else found.set(drivername=f"postgresql+{driver.removeprefix('async ')}")


def statement(url: sa.URL, text: str) -> None:
    """Run it on a connection of our own."""
    engine = open_engine(url.set(drivername=url.get_backend_name()))
    with engine.begin() as connection:
        connection.exec_driver_sql(text)
    engine.dispose()


def error_of_a_send(url: sa.URL, driver: str, before: str, **connecting: Any) -> BaseException:
    """What a send in the application's transaction raises, on an engine that shows its parameters."""
    if driver in ("aiosqlite", "asyncpg", "async psycopg"):

        async def work() -> BaseException:
            engine = create_async_engine(url, **connecting)
            try:
                async with AsyncSession(engine) as session:
                    await session.execute(sa.text(before))
                    await AsyncSendQueue(engine).send(GRANT, MAIL, session=session)
            except BaseException as error:
                return error
            finally:
                await engine.dispose()
            raise AssertionError("it was accepted")

        return asyncio.run(work())
    engine = sa.create_engine(url, **connecting)
    try:
        with Session(engine) as session:
            session.execute(sa.text(before))
            SendQueue(engine).send(GRANT, MAIL, session=session)
    except BaseException as error:
        return error
    finally:
        engine.dispose()
    raise AssertionError("it was accepted")


@contextlib.contextmanager
def locked(url: sa.URL) -> Iterator[None]:
    """Another transaction keeps everybody else from storing a body."""
    engine = open_engine(url.set(drivername=url.get_backend_name()))
    with engine.connect() as connection, connection.begin() as transaction:
        if url.get_backend_name() == "postgresql":
            connection.exec_driver_sql("LOCK TABLE sendq_payload IN ACCESS EXCLUSIVE MODE")
        yield
        transaction.rollback()
    engine.dispose()


class TestAnErrorOfTheDatabase:
    @pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
    def test_that_is_translated_shows_nothing_of_the_mail(self, url: sa.URL, driver: str, setting: str) -> None:
        with locked(url):
            if "sqlite" in driver:
                error = error_of_a_send(url, driver, "SELECT 1", connect_args={"timeout": 0.05})
                assert isinstance(error, Retryable)
                assert marks_in(error) == []
                return
            error = error_of_a_send(url, driver, f"SET LOCAL {setting} = '100ms'")
        assert isinstance(error, Retryable | LedgerUnavailable)
        assert_concealed(error)

    def test_that_is_passed_on_shows_nothing_of_the_mail(self, url: sa.URL, driver: str) -> None:
        for refusal in REFUSALS[url.get_backend_name()].values():
            statement(url, refusal)
            error = error_of_a_send(url, driver, "SELECT 1")
            assert isinstance(error, sa.exc.DBAPIError)
            assert_concealed(error)
            if url.get_backend_name() == "postgresql":
                statement(url, "DROP TRIGGER IF EXISTS no ON sendq_payload; DROP FUNCTION IF EXISTS no CASCADE")
                statement(url, "ALTER TABLE sendq_payload DROP CONSTRAINT IF EXISTS no")


class TestTheExamples:
    def test_hide_the_parameters_of_their_own_statements(self) -> None:
        made = [
            call
            for path in (ROOT / "examples").rglob("*.py")
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("create_engine", "create_async_engine")
        ]
        assert len(made) >= 2
        assert all("hide_parameters=True" in ast.unparse(call) for call in made)


class TestAnErrorThatTheApplicationHandlesMeanwhile:
    def test_is_left_as_it_is(self, tmp_path: Path) -> None:
        url = sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")
        migrate.run(url)
        statement(url, REFUSALS["sqlite"]["trigger"])
        engine = sa.create_engine(url)
        own = None
        try:
            with Session(engine) as session:
                session.execute(sa.text("SELECT :mine"), {"yours": "theirs"})
        except sa.exc.StatementError as error:
            own = error
            with pytest.raises(sa.exc.DBAPIError) as caught, Session(engine) as session:
                SendQueue(engine).send(GRANT, MAIL, session=session)
        engine.dispose()
        assert own is not None
        assert "theirs" in str(own)
        assert_concealed(caught.value)
