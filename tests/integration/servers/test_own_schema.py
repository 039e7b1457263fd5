"""The ledger in a schema of its own: by the URL's ``options``, by the role's search path, and behind PgBouncer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from sendq import AsyncSendQueue, LedgerUnavailable, Message, SendQueue
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from sendq.ledger.db.schema import metadata
from settings import Settings
from tests.support.pgbouncer import BINARY, PgBouncer
from tests.support.revisions import later_here
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.doctor.check import ledger_items
from worker.leading.wakeup import PostgresWakeup

MAIL = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>42</p>")
LATER = f"{migrate.wanted()}.1"
OPTIONS = "?options=-csearch_path%3Dmail"


@pytest.fixture
def database(pg_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection to a new database with the schema ``mail``."""
    with psycopg.connect(pg_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA mail")
        yield connection


def tables(database: psycopg.Connection[tuple[object, ...]]) -> set[tuple[object, ...]]:
    """Every table that is not PostgreSQL's: schema and name."""
    listed = "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    return set(database.execute(listed.encode()).fetchall())


ALL = {("mail", name) for name in (*metadata.tables, "sendq_version")}


class TestBySearchPathInTheUrl:
    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
    def test_all_tables_are_made_and_used_there(
        self, pg_url: str, database: psycopg.Connection[tuple[object, ...]], driver: str
    ) -> None:
        url = pg_url.replace("+psycopg", f"+{driver}") + OPTIONS
        migrate.run(url)
        assert tables(database) == ALL

        async def send() -> str:
            queue = AsyncSendQueue(url)
            try:
                return (await queue.send("grant-1", MAIL)).id
            finally:
                await queue.close()

        if driver == "asyncpg":
            asyncio.run(send())
        else:
            queue = SendQueue(url)
            queue.send("grant-1", MAIL)
            queue.close()
        assert database.execute("SELECT count(*) FROM mail.sendq_job").fetchone() == (1,)

    def test_check_finds_nothing_wrong_and_commits_wake_the_dispatcher(
        self, pg_url: str, database: psycopg.Connection[tuple[object, ...]]
    ) -> None:
        url = pg_url + OPTIONS
        migrate.run(url)
        assert not [one for one in ledger_items(Settings(database_url=url)) if one.state == "fail"]
        database.execute("UPDATE mail.sendq_leader SET sleeps_until = 9e15")
        engine = open_engine(url)
        wakeup = PostgresWakeup(engine)
        try:
            wakeup.wait_for(LIMIT_S)  # the first returns at once
            queue = SendQueue(url)
            queue.send("grant-1", MAIL)
            queue.close()
            listening = wakeup._listening()
            assert [one.channel for one in listening.notifies(timeout=LIMIT_S, stop_after=1)] == ["sendq_wake"]
        finally:
            wakeup.close()
            engine.dispose()

    def test_a_later_migration_stays_in_the_schema_that_has_the_tables(
        self, pg_url: str, database: psycopg.Connection[tuple[object, ...]], tmp_path: Path
    ) -> None:
        migrate.run(pg_url + OPTIONS)
        assert migrate.run(pg_url + "?options=-csearch_path%3Dpublic,mail").applied == ()
        with later_here(tmp_path, LATER, 'op.create_table("sendq_later", sa.Column("id", sa.Uuid()))'):
            assert migrate.run(pg_url + "?options=-csearch_path%3Dpublic,mail").applied == (LATER,)
        assert tables(database) == ALL | {("mail", "sendq_later")}

    def test_a_schema_that_does_not_exist_is_named(self, pg_url: str) -> None:
        with pytest.raises(LedgerUnavailable, match=r"CREATE SCHEMA"):
            migrate.run(pg_url + OPTIONS)


@pytest.mark.skipif(BINARY is None, reason="no pgbouncer here (on Debian and Ubuntu: apt install pgbouncer)")
class TestBehindPgBouncer:
    @pytest.fixture
    def bouncer(self, pg_server: PgServer) -> Iterator[PgBouncer]:
        found = PgBouncer(pg_server, size=2)
        yield found
        found.remove()

    def test_the_roles_search_path_decides(
        self, pg_url: str, database: psycopg.Connection[tuple[object, ...]], bouncer: PgBouncer
    ) -> None:
        url = sa.make_url(pg_url).set(port=bouncer.port)
        database.execute(f'ALTER ROLE postgres IN DATABASE "{url.database}" SET search_path = mail'.encode())
        migrate.run(url)
        assert tables(database) == ALL
        queue = SendQueue(url)
        queue.send("grant-1", MAIL)
        queue.close()
        assert database.execute("SELECT count(*) FROM mail.sendq_job").fetchone() == (1,)

    def test_the_urls_options_are_refused_with_a_remedy(self, pg_url: str, bouncer: PgBouncer) -> None:
        url = sa.make_url(pg_url + OPTIONS).set(port=bouncer.port)
        with pytest.raises(LedgerUnavailable, match=r"ALTER ROLE … SET search_path"):
            migrate.run(url)
