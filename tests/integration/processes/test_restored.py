"""A ledger that was restored from a backup, or taken over by a replica that lags: nothing is sent twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sendq import Send, SendQueue, State
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from tests.support.commands import Cli
from tests.support.servers import Cluster, running_cluster
from tests.support.system import System, mail, running
from tests.support.waiting import eventually
from worker.redis.embedded import redis_client

WHY = ("--reason", "restored the backup", "--by", "anna")


def flush(system: System) -> None:
    """Empty Redis."""
    with redis_client(system.redis.url) as client:
        client.flushall()


class TestARestoredBackup:
    """Of a SQLite file, with an empty Redis and new workers."""

    @pytest.fixture
    def system(self, tmp_path: Path) -> Iterator[System]:
        with running(f"sqlite:///{tmp_path}/ledger.db", tmp_path) as system:
            yield system

    @staticmethod
    def restored(system: System) -> str:
        """Restore a backup from before a job was sent; returns its id."""
        system.start_worker().terminate()
        job = system.queue.send("g1", mail()).id
        ledger, backup = system.directory / "ledger.db", system.directory / "backup.db"
        with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        system.start_worker()
        eventually(lambda: system.state(job) is State.SENT, "what the backup does not know of")
        for worker in system.workers:
            worker.terminate()
        system.engine.dispose()
        for name in ("ledger.db-wal", "ledger.db-shm"):
            (system.directory / name).unlink(missing_ok=True)
        shutil.copy(backup, ledger)
        flush(system)
        system.engine = open_engine(system.ledger_url)
        system.queue = SendQueue(system.engine)
        return job

    def test_that_is_young_is_repaired_without_an_operator(self, system: System) -> None:
        job = self.restored(system)
        worker = system.start_worker()
        eventually(lambda: system.state(job) is State.SENT, "its repeat")
        assert "dispatch_stopped" in worker.said()
        assert system.accepted() == {job: 1}
        assert [attempt.sent for attempt in system.queue.job(job).trail] == ["maybe", "yes"]

    def test_that_is_old_is_sent_from_after_an_operator_has_put_it_right(
        self, system: System, run: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = self.restored(system)
        worker = system.start_worker(SENDQ_KEY_MAX_AGE_S="0.001")
        eventually(lambda: "dispatch_stopped" in worker.said(), "its noticing")
        eventually(lambda: system.queue.why(job).reason == "shut", "the stop")
        for name in ("DATABASE_URL", "REDIS_URL"):
            monkeypatch.setenv(name, system.environ()[name])
        known_until = json.loads(run("status", "--json")[1])["shut"]["known_until"]
        status, _, err = run("recover", "--since", known_until, *WHY)
        assert (status, err) == (0, "")
        later = system.queue.send("g1", mail()).id
        eventually(lambda: system.state(later) is State.SENT, "what came afterwards")
        assert system.state(job) is State.IN_DOUBT
        assert system.accepted() == {job: 1, later: 1}


class TestAReplicaThatLags:
    MAILS, REPLICATED, LOST = 240, 40, 60

    @pytest.mark.parametrize("redis", ["kept", "emptied"])
    def test_takes_over_and_nothing_is_sent_twice(self, tmp_path: Path, redis: str) -> None:
        with running_cluster() as primary, primary.replica() as replica:
            migrate.run(url := primary.pg.url())
            with running(url, tmp_path, latency=0.5) as system:
                self._fail_over(system, primary, replica, empty_redis=redis == "emptied")

    def _fail_over(self, system: System, primary: Cluster, replica: Cluster, *, empty_redis: bool) -> None:
        for _ in range(2):
            system.start_worker()
        jobs = system.queue.send_many([Send(f"g{number % 4}", mail()) for number in range(self.MAILS)])
        eventually(lambda: len(system.api.mailbox) >= self.REPLICATED, "what the replica will know of")
        replica.stop()
        known = len(system.api.mailbox)
        eventually(lambda: len(system.api.mailbox) >= known + self.LOST, "what it will not know of")
        primary.kill()
        if empty_redis:
            flush(system)
        replica.take_over(primary.pg.port)
        eventually(lambda: system.states() == {State.SENT: len(jobs)}, "the rest")
        assert system.accepted() == {job.id: 1 for job in jobs}
        assert any("dispatch_resumed" in worker.said() for worker in system.workers)
