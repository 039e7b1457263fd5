"""Another version of sendq on a ledger full of jobs: beside the old one, after it, and back.

No second version exists yet. The new one is a copy of the code with one more revision, in processes of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from sendq import SchemaMismatch, SendQueue, State, clock
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import reading, writing
from tests.support.populated import populate
from tests.support.revisions import later_code
from tests.support.system import System, mail
from tests.support.waiting import LIMIT_S, eventually

pytestmark = pytest.mark.long

# What a revision may add while two versions work: a table, a column that may be empty, an index.
ADDITION = """
op.create_table("sendq_later", sa.Column("id", sa.Uuid(), primary_key=True))
op.add_column("sendq_job", sa.Column("later", sa.Text(), nullable=True))
op.create_index("sendq_job_later_idx", "sendq_job", ["later"])
"""
# And what it may not: the old code would insert jobs without a value.
CHANGE = """
op.add_column("sendq_job", sa.Column("later", sa.Text(), nullable=False, server_default="before"))
op.alter_column("sendq_job", "later", server_default=None)
"""
MINOR, MAJOR = f"{migrate.wanted()}.1", f"{int(migrate.wanted()) + 1:04}"
GRANTS = 10

# Every turn passes through the broker, so that any worker may get it.
BROKER_ONLY = {"SENDQ_LOCAL_TURNS": "false"}


@pytest.fixture
def full(system: System) -> Iterator[System]:
    """A ledger with jobs in every state, none of which is due; they must stay as they are."""
    with writing(system.engine) as connection:
        populate(connection, grants=40, jobs=1_000, held=10, now=clock.now())
        connection.execute(delete(schema.worker))  # of yesterday
        connection.execute(delete(schema.delivery))
        connection.execute(update(schema.leader).values(holder=None, expires_at=0))
    before = states(system)
    assert {state for state, _ in before.values()} == {"queued", "sent", "dead", "expired", "cancelled", "in_doubt"}
    yield system
    after = states(system)
    assert {job: after[job] for job in before} == before


def states(system: System) -> dict[Any, tuple[str, int]]:
    """The state and the attempts of every job."""
    columns = (schema.job.c.id, schema.job.c.state, schema.job.c.attempts)
    with reading(system.engine) as connection:
        return {row.id: (row.state, row.attempts) for row in connection.execute(select(*columns))}


def enqueue(system: System, count: int) -> list[str]:
    """Enqueue with the old code."""
    return [system.queue.send(f"new-{number % GRANTS}", mail()).id for number in range(count)]


def sent_once(system: System, jobs: list[str]) -> None:
    """Wait until the API has accepted each of the jobs; exactly once."""
    eventually(lambda: all(system.state(job) is State.SENT for job in jobs), "all jobs sent")
    accepted = system.accepted()
    assert {job: accepted[job] for job in jobs} == dict.fromkeys(jobs, 1)


def environ(system: System, code: Path) -> dict[str, str]:
    return {**system.environ(**BROKER_ONLY), "PYTHONPATH": str(code)}


def migrated(system: System, code: Path) -> list[str]:
    """Migrate with the new code; the revisions that it applied."""
    command = [sys.executable, "-m", "sendq", "migrate", "--json", "--url", system.ledger_url]
    done = subprocess.run(
        command, cwd=code, env=environ(system, code), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    applied: list[str] = json.loads(done.stdout)["applied"]
    return applied


@contextmanager
def new_worker(system: System, code: Path) -> Iterator[int]:
    """A worker of the new code; its process id."""
    log = system.directory / "new-worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"], cwd=code, env=environ(system, code), stdout=output, stderr=output
        )
    try:
        eventually(lambda: process.poll() is not None or workers(system).get(process.pid), "a worker's registration")
        assert process.poll() is None, log.read_text()
        yield process.pid
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def workers(system: System) -> dict[int, Any]:
    """The id of each worker that is registered, by its process."""
    with reading(system.engine) as connection:
        return {row.pid: row.id for row in connection.execute(select(schema.worker.c.pid, schema.worker.c.id))}


def working(system: System) -> set[Any]:
    """The workers that made a call."""
    with reading(system.engine) as connection:
        return set(connection.execute(select(schema.attempt.c.worker_id).distinct()).scalars())


class TestARevisionThatAdds:
    def test_is_made_under_load_serves_both_versions_and_lets_the_old_one_return(
        self, full: System, tmp_path: Path
    ) -> None:
        code = later_code(tmp_path, MINOR, ADDITION)
        old = full.start_worker(**BROKER_ONLY)
        jobs = enqueue(full, 100)
        assert migrated(full, code) == [MINOR]
        jobs += enqueue(full, 100)
        with new_worker(full, code) as pid:
            both = {workers(full)[old.pid], workers(full)[pid]}

            def shared() -> bool:
                jobs.extend(enqueue(full, 20))
                return both <= working(full)

            eventually(shared, "calls by both workers")
            sent_once(full, jobs)
            assert old.terminate() == 0
            sent_once(full, enqueue(full, 50))  # the new worker alone
        again = full.start_worker(**BROKER_ONLY)  # the old version again, which does not know the ledger's revision
        assert migrate.state(full.engine) == migrate.SchemaState(MINOR, migrate.wanted(), "ahead")
        sent_once(full, enqueue(full, 50))
        assert "newer_version" in again.said()


class TestARevisionThatChanges:
    def test_keeps_the_old_version_out_and_takes_over_what_it_left(self, full: System, tmp_path: Path) -> None:
        code = later_code(tmp_path, MAJOR, CHANGE)
        old = full.start_worker(**BROKER_ONLY)
        sent_once(full, enqueue(full, 50))
        assert old.terminate() == 0
        left = enqueue(full, 100)
        assert migrated(full, code) == [MAJOR]
        application = SendQueue(full.ledger_url)  # started after the migration
        with pytest.raises(SchemaMismatch, match=rf"{MAJOR}, which this version of sendq does not know"):
            application.send("new-1", mail())
        application.close()
        refused = subprocess.run(
            [sys.executable, "-m", "worker"],
            env=full.environ(**BROKER_ONLY), cwd=os.getcwd(), capture_output=True, text=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
        assert refused.returncode != 0
        assert "upgrade sendq" in refused.stdout + refused.stderr
        with new_worker(full, code):
            sent_once(full, left)
