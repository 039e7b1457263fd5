"""The whole system for a test: a ledger, a Redis, a simulated API on a socket, and real worker processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine, Row, Table, func, select, text, update

from sendq import Message, SendQueue, State, clock
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.simulator import Simulator
from tests.support.forking import Forked, can_fork
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S, eventually
from worker.redis.embedded import EmbeddedRedis, redis_client

T = TypeVar("T")
API_KEY = "test-key"
# More than the start of a worker takes on an idle machine: in a fork (0.5 s), and as a program (2 s).
FORK_START_S, PROGRAM_START_S = 1.0, 4.0
ROOT = Path(__file__).parents[2]

# Backoffs of tenths of a second instead of minutes; everything else as in the policy.
SHORT_BACKOFFS = "".join(
    f"""
[[change]]
id = "{row}"
backoff = {{ base = 0.1, cap = 0.3, number = 6 }}
"""
    for row in ("server_error", "bad_gateway", "provider_unreachable", "service_unavailable", "provider_timeout",
                "no_answer")
)  # fmt: skip


# No provider limits: a test of something else should not wait for Google's per-minute limit.
UNPACED = json.dumps(
    [
        {"provider": "google", "limits": {"second": None, "minute": None}},
        {"provider": "microsoft", "limits": {"messages": None, "requests": None}},
        {"provider": "ews", "limits": {"commands": None}},
    ]
)


FORKABLE = {("worker",), ("tests.support.controlled",)}  # they change nothing before the imports


class Worker:
    """One worker process, ``python -m worker``. ``program``: what runs instead, after ``-m``."""

    def __init__(
        self, environ: dict[str, str], log: Path, *arguments: str, program: Sequence[str] = ("worker",)
    ) -> None:
        self.log = log
        self.process: Forked | subprocess.Popen[bytes]
        if tuple(program) in FORKABLE and can_fork(environ):
            self.process = Forked([*program, *arguments], environ, cwd=ROOT, log=log)
            return
        command = [sys.executable, "-m", *program, *arguments]
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=stream, stderr=stream)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait(LIMIT_S)

    def terminate(self) -> int:
        """Send SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")


class System:
    """A running system; everything ends with the block of `running`."""

    def __init__(self, ledger_url: str, redis: EmbeddedRedis, simulator: Simulator, directory: Path) -> None:
        self.ledger_url, self.redis, self.api, self.directory = ledger_url, redis, simulator, directory
        self.engine: Engine = open_engine(ledger_url)
        migrate.upgrade(self.engine)
        self.queue = SendQueue(self.engine)
        self.workers: list[Worker] = []
        self._slowest_start = 1.0  # relative to an idle machine
        self.policy = directory / "policy.toml"
        self.policy.write_text(SHORT_BACKOFFS)

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment of a process of this system."""
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.ledger_url,
            "REDIS_URL": self.redis.url,
            "NYLAS_API_KEY": API_KEY,
            "NYLAS_API_URI": self.api.url,
            "SENDQ_POLICY_FILE": str(self.policy),
            "SENDQ_PACES": UNPACED,
            "SENDQ_ASK_PROVIDERS": "false",
            "SENDQ_RUN_DIR": str(self.directory / "run"),
            **settings,
        }

    def start_controlled_worker(self, **settings: str) -> Worker:
        """`start_worker`, with one that obeys `control`."""
        return self._start("tests.support.controlled", self.environ(**settings))

    def start_worker(self, *arguments: str, wrong_clock: str = "", **settings: str) -> Worker:
        """Start a worker and wait until it is registered in the ledger.

        ``wrong_clock``: path of a file with the seconds by which its clock is wrong; it may change while the worker
        runs.
        """
        environ, program = self.environ(**settings), "worker"
        if wrong_clock:
            environ["SHIFTED_CLOCK"], program = wrong_clock, "tests.support.shifted"
        return self._start(program, environ, *arguments)

    def _start(self, program: str, environ: dict[str, str], *arguments: str) -> Worker:
        worker = Worker(environ, self.directory / f"worker-{len(self.workers)}.log", *arguments, program=(program,))
        self.workers.append(worker)
        began, usual_s = time.monotonic(), FORK_START_S if isinstance(worker.process, Forked) else PROGRAM_START_S

        def there() -> bool:
            assert worker.process.poll() is None, f"the worker ended at once: {worker.said()}"
            return self.scalar(f"SELECT count(*) FROM sendq_worker WHERE pid = {worker.pid}") > 0

        eventually(there, "a worker's registration")
        self._slowest_start = max(self._slowest_start, (time.monotonic() - began) / usual_s)
        return worker

    @property
    def slowness(self) -> float:
        """How many times slower this machine is now than an idle one: 1.0 or more.

        Measured by the start of this system's workers. Multiply the time limits of a test by it.
        """
        return self._slowest_start

    def count(self, table: Table) -> int:
        """Rows of a table."""
        with reading(self.engine) as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar_one()

    def rows(self, table: Table) -> Sequence[Row[Any]]:
        """All rows of a table."""
        with reading(self.engine) as connection:
            return connection.execute(select(table)).all()

    def prove(self, application: str = "default", provider: str = "unknown") -> None:
        """Mark an application as known to work, as after some successes."""
        known = {"ramp": None, "proven_at": clock.now()}
        with writing(self.engine) as connection:
            pair = {"application": application, "provider": provider}
            if not insert_new(connection, schema.pair, [pair | known], returning="provider"):
                connection.execute(update(schema.pair).filter_by(**pair).values(**known))

    def scalar(self, statement: str) -> int:
        """The number that a statement returns."""
        with reading(self.engine) as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def lose_messages(self) -> None:
        """Delete the messages in our queue from the broker."""
        with redis_client(self.redis.url) as client:
            client.delete("sendq")

    def control(self, *command: str) -> None:
        """Stop or start the consumers of workers (`start_controlled_worker`): cancel_consumer, add_consumer."""
        run = [sys.executable, "-m", "celery", "-A", "tests.support.controlled", "control", *command]
        subprocess.run(run, env=self.environ(), cwd=ROOT, check=True, capture_output=True, timeout=LIMIT_S)

    def states(self) -> Counter[State]:
        """How many jobs are in each state."""
        table = schema.job.c
        with reading(self.engine) as connection:
            rows = connection.execute(select(table.state, func.count()).group_by(table.state))
            return Counter({State(state): count for state, count in rows})

    def state(self, job_id: str) -> State:
        """The state of one job."""
        return self.queue.job(job_id).state

    def wait_for(self, state: State, count: int, *, limit_s: float = LIMIT_S) -> None:
        """Wait until ``count`` jobs are in a state."""
        eventually(lambda: self.states()[state] >= count, f"{count} jobs {state.value}", limit_s=limit_s)

    def accepted(self) -> Counter[str]:
        """How often the API accepted each job's message."""
        return Counter(str(one.payload["metadata"]["key1"]) for one in self.api.mailbox)

    def close(self) -> None:
        """End the processes that still run."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        self.engine.dispose()


def mail(to: str = "leyah@example.com", subject: str = "Invoice 42") -> Message:
    """A message."""
    return Message(to=[to], subject=subject, body="<p>42</p>")


@contextmanager
def running_on(
    database: str, request: pytest.FixtureRequest, directory: Path, *, latency: float = 0.0
) -> Iterator[System]:
    """A system on "sqlite" or on "postgresql", without a worker yet."""
    if database == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), directory / "sendq.db")
        with running(f"sqlite:///{directory}/sendq.db", directory, latency=latency) as system:
            yield system
    else:
        server: PgServer = request.getfixturevalue("pg_server")
        with server.ledger() as url, running(url, directory, latency=latency) as system:
            yield system


@pytest.fixture
def system(pg_server: PgServer, tmp_path: Path) -> Iterator[System]:
    """A system on PostgreSQL for one test, without a worker yet."""
    with pg_server.ledger() as url, running(url, tmp_path) as system:
        yield system


@contextmanager
def running(ledger_url: str, directory: Path, *, latency: float = 0.0, api_key: str = API_KEY) -> Iterator[System]:
    """A system without a worker yet."""
    with EmbeddedRedis(directory / "redis") as redis, Simulator(api_key=api_key, latency=latency) as simulator:
        system = System(ledger_url, redis, simulator, directory)
        try:
            yield system
        finally:
            system.close()
