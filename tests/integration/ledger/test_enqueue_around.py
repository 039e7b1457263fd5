"""What is around an enqueue: a ledger that is away, a fork, and what is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from sendq import (
    LedgerUnavailable,
    Retryable,
    SchemaMismatch,
    SendQueue,
)
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine, translated
from tests.integration.ledger.test_enqueue import counts
from tests.support.ledger import MESSAGE, Ledger
from tests.support.servers import PgServer


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


class TestWhatIsImported:
    def test_is_no_broker_no_http_client_and_no_environment(self) -> None:
        script = (
            "import sys, sendq; sendq.SendQueue('sqlite://').close();"
            "print(sorted({'celery', 'kombu', 'redis', 'aiohttp', 'requests', 'httpx', 'settings', 'tasks', 'worker',"
            " 'pydantic_settings'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
