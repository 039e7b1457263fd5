"""Joining the caller's transaction: SQLAlchemy's, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from sendq.async_queue import AsyncSendQueue
from sendq.errors import LedgerUnavailable
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_async_engine, open_engine, reading
from sendq.ledger.db.joined import async_connection_of, connection_of
from sendq.messages.message import Message
from sendq.queue import SendQueue

GRANT = "7f3a8f30-4c4e-4f5b-9d1c-1f0a9f3f2a11"
SECRET = "what nobody but the recipient reads"


def message(subject: str = "Invoice 42") -> Message:
    return Message(to=["leyah@example.com"], subject=subject, body=SECRET)


def accepted(engine: sa.Engine) -> int:
    """How many jobs are committed, seen from a connection of our own; each has its body and its lane was woken."""
    with reading(engine) as connection:
        jobs, bodies = (
            connection.scalar(sa.select(sa.func.count()).select_from(t)) for t in (schema.job, schema.payload)
        )
        woken = connection.scalar(sa.select(sa.func.count()).select_from(schema.wake))
    assert jobs == bodies
    assert bool(jobs) == bool(woken)
    assert jobs is not None
    return jobs


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    """The address of a database with the ledger and the application's own table."""
    if request.param == "sqlite":
        url = sa.make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    else:
        url = sa.make_url(request.getfixturevalue("pg_url")).set(drivername=f"postgresql+{request.param}")
    migrated = open_engine(url)
    migrate.upgrade(migrated)
    Base.metadata.create_all(migrated)
    migrated.dispose()
    return url


@pytest.fixture
def engine(address: sa.URL) -> Iterator[sa.Engine]:
    """As an application makes one: not by our own function."""
    engine = sa.create_engine(address)
    yield engine
    engine.dispose()


def as_connection(engine: sa.Engine) -> Any:
    return engine.connect()


def as_session(engine: sa.Engine) -> Any:
    return Session(engine)


def as_scoped_session(engine: sa.Engine) -> Any:
    return scoped_session(sessionmaker(engine))


class TestAJobInSQLAlchemysTransaction:
    @pytest.fixture(params=[as_connection, as_session, as_scoped_session])
    def session(self, request: pytest.FixtureRequest, engine: sa.Engine) -> Iterator[Any]:
        session = request.param(engine)
        yield session
        session.close()

    @pytest.fixture
    def queue(self, engine: sa.Engine) -> SendQueue:
        return SendQueue(engine)

    def test_is_committed_with_it(self, session: Any, queue: SendQueue, engine: sa.Engine) -> None:
        session.execute(sa.insert(Order).values(id=1))
        queue.send(GRANT, message(), session=session)
        assert accepted(engine) == 0
        session.commit()
        assert accepted(engine) == 1

    def test_is_lost_with_it(self, session: Any, queue: SendQueue, engine: sa.Engine) -> None:
        queue.send(GRANT, message(), session=session)
        session.rollback()
        assert accepted(engine) == 0
        queue.send(GRANT, message(), session=session)
        session.commit()
        assert accepted(engine) == 1

    def test_is_lost_with_a_savepoint_of_it(self, session: Any, queue: SendQueue, engine: sa.Engine) -> None:
        session.execute(sa.insert(Order).values(id=1))
        with contextlib.suppress(ZeroDivisionError), session.begin_nested():
            queue.send(GRANT, message(), session=session)
            raise ZeroDivisionError
        session.commit()
        assert accepted(engine) == 0


class TestASessionOfAnotherDatabase:
    def test_is_refused_and_nothing_is_stored(self, engine: sa.Engine, tmp_path: Path) -> None:
        elsewhere = sa.create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}")
        migrate.upgrade(elsewhere)
        queue = SendQueue(engine)
        for _ in range(2):
            with Session(elsewhere) as session, pytest.raises(TypeError, match="another database"):
                queue.send(GRANT, message(), session=session)
        assert (accepted(engine), accepted(elsewhere)) == (0, 0)
        elsewhere.dispose()

    def test_is_recognised_by_the_ledger_and_not_by_the_address_alone(self, address: sa.URL) -> None:
        if address.get_backend_name() == "sqlite":
            same = address.set(database=f"file:{address.database}", query={"uri": "true"})
        else:
            same = address.set(query={**address.query, "options": "-c lock_timeout=20000"})
        queue, engine = SendQueue(open_engine(address)), sa.create_engine(same)
        for _ in range(2):
            with Session(engine) as session, session.begin():
                queue.send(GRANT, message(), session=session)
        assert accepted(engine) == 2
        engine.dispose()
        queue.close()


class TestATranslationOfSchemas:
    def test_is_applied_to_none_of_our_statements_and_stays_the_callers(self, engine: sa.Engine) -> None:
        tenant = engine.execution_options(schema_translate_map={None: "tenant_b"})
        queue = SendQueue(tenant)
        with Session(tenant) as session, session.begin():
            job = queue.send(GRANT, message(), key="k", session=session)
            assert queue.send(GRANT, message(), key="k", session=session).existed
            assert session.connection().get_execution_options()["schema_translate_map"] == {None: "tenant_b"}
        assert queue.cancel(job.id) == "cancelled"
        assert accepted(engine) == 1


@pytest.fixture(params=["psycopg", "psycopg2"])
def pg_engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An application's engine on PostgreSQL, in whose database there is a ledger."""
    url = sa.make_url(request.getfixturevalue("pg_ledger_url")).set(drivername=f"postgresql+{request.param}")
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


class TestATwoPhaseCommit:
    def test_can_be_prepared_although_the_dispatcher_sleeps(self, pg_engine: sa.Engine) -> None:
        """PostgreSQL prepares no transaction that has notified."""
        with pg_engine.begin() as connection:
            connection.execute(sa.update(schema.leader).values(sleeps_until=2**60))
        with Session(pg_engine, twophase=True) as session:
            SendQueue(pg_engine).send(GRANT, message(), key="k", session=session)
            SendQueue(pg_engine).modify(GRANT, ["m1"], unread=False, session=session)
            session.commit()
        with pg_engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(schema.job)) == 2


class TestARoleWithoutRights:
    def test_is_told_which_it_needs(self, pg_engine: sa.Engine) -> None:
        name = f"web_{pg_engine.url.database}"
        with pg_engine.begin() as connection:
            connection.exec_driver_sql(f'CREATE ROLE "{name}"')
            connection.exec_driver_sql(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
        with Session(pg_engine) as session:
            session.execute(sa.text(f'SET LOCAL ROLE "{name}"'))
            with pytest.raises(LedgerUnavailable, match=r"no right .* grant the role SELECT, INSERT"):
                SendQueue(pg_engine).send(GRANT, message(), session=session)
        with pg_engine.begin() as connection:
            connection.exec_driver_sql(f'DROP OWNED BY "{name}"')
            connection.exec_driver_sql(f'DROP ROLE "{name}"')


class TestAutocommit:
    def test_of_an_engine_is_refused(self, address: sa.URL) -> None:
        engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
        for ask in (as_connection, as_session):
            with ask(engine) as session, pytest.raises(RuntimeError, match="AUTOCOMMIT"):
                connection_of(session)
        engine.dispose()

    def test_of_a_connection_is_refused(self, engine: sa.Engine) -> None:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection, pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            connection_of(connection)

    def test_of_the_driver_is_refused(self, engine: sa.Engine) -> None:
        if engine.dialect.name == "sqlite":
            pytest.skip("Python 3.11's sqlite3 has none that is not how an engine says BEGIN itself")
        sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "autocommit", True))
        with engine.connect() as connection, pytest.raises(RuntimeError, match="AUTOCOMMIT"):
            connection_of(connection)

    def test_overruled_for_one_connection_is_none(self, address: sa.URL) -> None:
        engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
            assert connection_of(connection) is connection
        engine.dispose()

    def test_is_not_seen_in_our_own_engines(self, address: sa.URL) -> None:
        engine = open_engine(address)
        with engine.connect() as connection:
            assert connection_of(connection) is connection
        engine.dispose()


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def async_address(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    if request.param == "aiosqlite":
        url = sa.make_url(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    else:
        url = sa.make_url(request.getfixturevalue("pg_url")).set(drivername=f"postgresql+{request.param}")
    migrate.run(url)
    return url


def in_a_loop(address: sa.URL, work: Callable[[AsyncSendQueue, Any], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = open_async_engine(address)
        try:
            await work(AsyncSendQueue(engine), engine)
        finally:
            await engine.dispose()

    asyncio.run(run())


def committed(address: sa.URL) -> int:
    driver = "sqlite" if address.get_backend_name() == "sqlite" else "postgresql"
    engine = open_engine(address.set(drivername=driver))
    try:
        return accepted(engine)
    finally:
        engine.dispose()


class TestAJobInAnAsyncTransaction:
    @pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession, async_scoped_session])
    def test_is_committed_or_lost_with_it(self, async_address: sa.URL, kind: Any) -> None:
        async def work(queue: AsyncSendQueue, engine: Any) -> None:
            if kind is AsyncConnection:
                session = await engine.connect()
            elif kind is AsyncSession:
                session = AsyncSession(engine)
            else:
                session = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
            await queue.send(GRANT, message(), session=session)
            await session.rollback()
            await queue.send(GRANT, message(), session=session)
            await session.commit()
            await queue.send(GRANT, message(), session=session)
            await session.close()

        in_a_loop(async_address, work)
        assert committed(async_address) == 1

    def test_is_refused_in_autocommit(self, async_address: sa.URL) -> None:
        async def work(queue: AsyncSendQueue, engine: Any) -> None:
            async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                with pytest.raises(RuntimeError, match="AUTOCOMMIT"):
                    await queue.send(GRANT, message(), session=connection)

        in_a_loop(async_address, work)
        assert committed(async_address) == 0


class TestAnAsyncSessionOfAnotherDatabase:
    def test_is_refused_and_one_of_the_same_is_not(self, async_address: sa.URL, tmp_path: Path) -> None:
        other = sa.make_url(f"sqlite+aiosqlite:///{tmp_path / 'elsewhere.db'}")
        migrate.run(other)

        async def work(queue: AsyncSendQueue, engine: Any) -> None:
            elsewhere = open_async_engine(other)
            async with AsyncSession(elsewhere) as session:
                with pytest.raises(TypeError, match="another database"):
                    await queue.send(GRANT, message(), session=session)
            await elsewhere.dispose()
            if async_address.get_backend_name() == "sqlite":
                return
            same = open_async_engine(
                async_address.set(query={**async_address.query, "options": "-c lock_timeout=9000"})
            )
            async with AsyncSession(same) as session, session.begin():
                await queue.send(GRANT, message(), session=session)
            await same.dispose()

        in_a_loop(async_address, work)


class Impostor:
    """Something whose ``connection()`` is not SQLAlchemy's: an HTTP client's, say."""

    async def connection(self) -> None: ...


class TestTheWrongKind:
    @pytest.fixture
    def sync_engine(self) -> Iterator[sa.Engine]:
        engine = sa.create_engine("sqlite://")
        yield engine
        engine.dispose()

    @pytest.mark.parametrize(
        "wrong", ["postgresql://somebody:secret@host/ledger", None, 7, Session, object(), Impostor()]
    )
    def test_is_a_type_error_that_names_what_is_wanted(self, wrong: object) -> None:
        with pytest.raises(
            TypeError, match=r"Connection or Session, or django\.db\.connection inside atomic\(\)"
        ) as caught:
            connection_of(wrong)
        assert "secret" not in str(caught.value)

    def test_an_engine_has_no_transaction_to_join(self, sync_engine: sa.Engine) -> None:
        with pytest.raises(TypeError, match="not Engine"):
            connection_of(sync_engine)

    def test_an_async_session_belongs_to_the_async_queue(self) -> None:
        for wrong in (AsyncSession(), async_scoped_session(async_sessionmaker(), lambda: None)):
            with pytest.raises(TypeError, match="use AsyncSendQueue"):
                connection_of(wrong)

    def test_a_sync_session_belongs_to_the_sync_queue(self, sync_engine: sa.Engine) -> None:
        with sync_engine.connect() as connection, Session(sync_engine) as session:
            for wrong in (connection, session, scoped_session(sessionmaker(sync_engine))):
                with pytest.raises(TypeError, match="use SendQueue"):
                    async_connection_of(wrong)

    def test_anything_else_is_refused_by_the_async_queue(self) -> None:
        with pytest.raises(TypeError, match="pass a SQLAlchemy AsyncConnection or AsyncSession, not int"):
            async_connection_of(7)

    def test_a_session_of_several_databases_has_to_say_which(self) -> None:
        with Session(binds={}) as session, pytest.raises(TypeError, match="pass the ledger's"):
            connection_of(session)

    def test_a_database_that_is_no_ledgers_is_named(self) -> None:
        class Elsewhere(Impostor):
            vendor, in_atomic_block = "mysql", True
            Database = re  # any module with another name

            def ensure_connection(self) -> None: ...

        with pytest.raises(TypeError, match="cannot live in 'mysql'"):
            connection_of(Elsewhere())
