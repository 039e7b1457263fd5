"""A job that kills whoever carries it out, among others that do not: it goes alone, and the others go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from sendq import Send, State
from sendq.ledger.db import schema
from sendq.simulator import Fault
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import eventually

POISON = Path(__file__).parents[2] / "support" / "poison"


@pytest.fixture
def system(pg_server: PgServer, tmp_path: Path) -> Iterator[System]:
    with pg_server.ledger() as url, running(url, tmp_path, latency=0.02) as system:
        yield system


class Supervisor:
    """Starts a worker again when it ends, as every supervisor does."""

    def __init__(self, system: System) -> None:
        self.starts, self._system, self._end = 0, system, Event()
        self._thread = Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        environ = self._system.environ(SENDQ_BEAT_INTERVAL_S="0.5", SENDQ_STALE_AFTER_S="4", SENDQ_CONCURRENCY="20")
        environ["PYTHONPATH"] = f"{POISON}:{environ['PYTHONPATH']}"
        command = [sys.executable, "-m", "worker"]
        with (self._system.directory / "supervised.log").open("ab") as log:
            while not self._end.is_set():
                self.starts += 1
                worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
                while worker.poll() is None and not self._end.wait(0.05):
                    pass
                worker.kill()
                worker.wait()

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.mark.long
def test_only_the_job_to_blame_ends_and_all_others_go_out_once(system: System) -> None:
    """Two kinds of poison among 200 innocents of 20 grants, in lanes with innocents before and behind them."""
    system.api.will(Fault.status(400, message="deadly answer"), operation="modify", times=None)
    innocent = [job.id for job in system.queue.send_many([Send(f"g{number % 20}", mail()) for number in range(100)])]
    send = system.queue.send("g3", mail("garbage@example.com")).id
    batch = system.queue.modify("g7", ["poison"], unread=False)
    innocent += [job.id for job in system.queue.send_many([Send(f"g{number % 20}", mail()) for number in range(100)])]
    with Supervisor(system) as supervised:
        eventually(lambda: system.queue.batch(batch.id).counts.get(State.DEAD), "the dead letter")
        eventually(lambda: system.state(send) is State.IN_DOUBT, "the doubt")
        system.wait_for(State.SENT, 200)
        starts = supervised.starts
        eventually(lambda: system.count(schema.worker) == 1, "the burial of the dead")
    accepted = system.accepted()
    assert {job: accepted[job] for job in innocent} == dict.fromkeys(innocent, 1)
    # Two deaths for each of the two at the most, and the one that lives.
    assert 3 <= starts <= 5
    assert system.accepted()[send] == 1, "the API took it, and only its answer is deadly"
    view = system.queue.job(send)
    assert (view.rule, view.trail[-1].rule, view.trail[-1].sent) == ("poison", "poison", "maybe")
    assert system.scalar("SELECT count(*) FROM sendq_job WHERE rule = 'poison'") == 2
    assert system.scalar("SELECT count(*) FROM sendq_job WHERE deaths > 2") == 2
    assert "two workers died" in system.queue.why(dead(system, batch.id)).says


def dead(system: System, batch: str) -> str:
    (job,) = [str(row.id) for row in system.rows(schema.job) if str(row.batch_id) == batch]
    return job
