"""``sendq health``: the canary through the whole system, and the two cheap probes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sendq import State, clock
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import canary, lineage
from sendq.ledger.dispatching.canary import Stage
from sendq.ledger.dispatching.offers import give_back
from tests.support.ledger import Ledger, end
from tests.support.proxy import Proxy
from tests.support.servers import PgServer
from tests.support.system import ROOT, System, mail, running
from tests.support.waiting import LIMIT_S, eventually
from worker.processes.heartbeat_file import LIVE_S


def ask(system: System, *options: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """Exit status and words of ``sendq health``."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "health", "--json", *options],
        env=system.environ(**environ), cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


class TestTheCanary:
    @pytest.mark.parametrize("database", [pytest.param("sqlite", marks=pytest.mark.long), "postgresql"])
    def test_goes_through_leader_broker_worker_and_ledger_and_leaves_nothing(
        self, pg_server: PgServer, tmp_path: Path, database: str
    ) -> None:
        with pg_server.database() as name:
            url = pg_server.url(name) if database == "postgresql" else f"sqlite:///{tmp_path}/sendq.db"
            with running(url, tmp_path) as system:
                system.start_worker()
                status, said = ask(system)
                assert (status, said["healthy"], said["link"]) == (0, True, None)
                assert system.count(schema.lane) == system.count(schema.wake) == 0
                assert system.api.requests == []

    def test_is_put_beside_a_backlog_and_passes_it(self, system: System) -> None:
        system.api.behaviour.latency = 0.2
        system.queue.modify("busy", [f"m{number}" for number in range(2_000)], unread=False)
        system.start_worker()
        eventually(lambda: system.api.requests, "work")
        assert ask(system)[0] == 0

    def test_names_the_ledger(self, system: System) -> None:
        status, said = ask(system, DATABASE_URL="postgresql+psycopg://postgres@127.0.0.1:1/none")
        assert (status, said["link"]) == (1, "ledger")

    def test_names_the_worker_at_once_when_there_is_none(self, system: System) -> None:
        status, said = ask(system, "--timeout", str(LIMIT_S))
        assert (status, said["link"]) == (1, "worker")
        assert said["seconds"] < LIMIT_S / 3
        assert "start one" in said["says"]

    def test_names_the_worker_when_all_are_dead(self, system: System) -> None:
        system.start_worker().kill()
        status, said = ask(system, "--timeout", "3")
        assert (status, said["link"]) == (1, "worker")
        assert "none sends heartbeats" in said["says"]

    def test_names_the_broker(self, system: System) -> None:
        worker = system.start_worker()
        eventually(lambda: "became_leader" in worker.said(), "a leader")
        system.redis.stop()
        status, said = ask(system, "--timeout", "10")
        assert (status, said["link"]) == (1, "broker")

    def test_names_a_worker_that_does_not_read(self, system: System) -> None:
        worker = system.start_controlled_worker()
        eventually(lambda: "ready." in worker.said(), "a consumer")
        system.control("cancel_consumer", "sendq")
        status, said = ask(system, "--timeout", "10")
        assert (status, said["link"]) == (1, "consumer")

    def test_names_a_ledger_that_is_shut(self, system: System) -> None:
        system.start_worker()
        with writing(system.engine) as connection:
            long_ago = clock.now() - clock.seconds(7200)  # a loss that is younger than keys are repaired at once
            lineage.shut(connection, because=lineage.Incomplete.LOST, lost_since=long_ago, now=clock.now())
        status, said = ask(system, "--timeout", "10")
        assert (status, said["link"]) == (1, "shut")
        assert "sendq recover" in said["says"]

    def test_comes_through_when_the_broker_is_back(self, system: System) -> None:
        worker = system.start_worker()
        eventually(lambda: "became_leader" in worker.said(), "a leader")
        system.redis.stop()
        asking = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "health"], env=system.environ(), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        eventually(lambda: "publish_failed" in worker.said(), "a turn that could not be given")
        system.redis.start()
        assert asking.wait(LIMIT_S) == 0


class TestItsStages:
    def test_are_read_off_its_lane(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            canary.put(connection, "c1", now=ledger.clock())
        assert stage(ledger) is Stage.WAITS
        offered = ledger.offer()
        assert stage(ledger) is Stage.OFFERED
        (claimed,) = ledger.claim(offered)
        assert stage(ledger) is Stage.CLAIMED
        assert claimed.jobs == []
        ledger.record(ends=[end(claimed)])
        assert stage(ledger) is Stage.SERVED

    def test_tell_a_turn_that_came_back_from_one_that_was_served(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            canary.put(connection, "c1", now=ledger.clock())
        (turn,) = ledger.offer()
        with ledger.writing() as connection:
            give_back(connection, [(turn.lane_id, turn.fence)], now=ledger.clock())
        assert stage(ledger) is Stage.RETURNED
        with ledger.writing() as connection:
            canary.put(connection, "c1", now=ledger.clock())
        assert len(ledger.offer()) == 1

    def test_are_cleared_away_but_for_one_in_a_turn(self, ledger: Ledger) -> None:
        for name in ("c1", "c2"):
            with ledger.writing() as connection:
                canary.put(connection, name, now=ledger.clock())
        ledger.absorb()
        ledger.clock.advance(2 * 3600)
        with ledger.writing() as connection:
            canary.put(connection, "c3", now=ledger.clock())
            canary.clear(connection, "c1", now=ledger.clock())
        assert ledger.rows(schema.lane) == []
        assert len(ledger.rows(schema.wake)) == 1
        ledger.offer()
        with ledger.writing() as connection:
            canary.clear(connection, "c3", now=ledger.clock())
        assert stage(ledger, "c3") is Stage.OFFERED


def stage(ledger: Ledger, name: str = "c1") -> Stage:
    with ledger.writing() as connection:
        return canary.look(connection, name)


class TestTheProbes:
    def test_say_that_a_worker_lives_and_is_ready(self, system: System) -> None:
        worker = system.start_worker()
        eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")
        status, said = ask(system, "--live")
        assert (status, [one["pid"] for one in said["workers"]]) == (0, [worker.pid])

    def test_find_none_where_none_runs_or_it_was_killed(self, system: System) -> None:
        assert ask(system, "--live") == (1, {"healthy": False, "workers": []})
        worker = system.start_worker()
        assert ask(system, "--live")[0] == 0
        worker.kill()
        assert ask(system, "--live") == (1, {"healthy": False, "workers": []})
        assert list((system.directory / "run").iterdir()) == []

    def test_call_a_worker_live_and_not_ready_without_its_broker(self, system: System) -> None:
        system.start_worker()
        eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")
        system.redis.stop()
        assert eventually(lambda: obstacles(system), "an obstacle") == ["no broker"]
        assert ask(system, "--live")[0] == 0
        system.redis.start()
        eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")

    def test_call_a_worker_live_and_not_ready_while_its_ledger_stands_still(
        self, pg_server: PgServer, system: System
    ) -> None:
        with Proxy(pg_server.host, pg_server.port) as proxy:
            system.start_worker(DATABASE_URL=proxy.in_place_of(system.ledger_url))
            eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")
            proxy.freeze()
            said = eventually(lambda: obstacles(system), "an obstacle")
            assert said == ["no lease: the ledger is unavailable"]
            assert ask(system, "--live")[0] == 0
            proxy.forward()
            eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")
            job = system.queue.send("g1", mail()).id
            eventually(lambda: system.state(job) is State.SENT, "work as before")

    def test_call_a_worker_dead_whose_loop_stands_still(self, system: System) -> None:
        worker = system.start_worker()
        eventually(lambda: ask(system, "--ready")[0] == 0, "readiness")  # frozen while it starts, it would give up
        os.kill(worker.pid, signal.SIGSTOP)
        stopped_at = clock.now()
        assert ask(system, "--live")[0] == 0, "not at once: a busy machine may be late"
        eventually(lambda: ask(system, "--live")[0] == 1, "the verdict")
        assert clock.now() - stopped_at >= (LIVE_S - 2) * clock.SECOND
        os.kill(worker.pid, signal.SIGCONT)
        eventually(lambda: ask(system, "--live")[0] == 0, "its recovery")

    def test_cost_next_to_nothing(self, system: System) -> None:
        system.start_worker()
        command = [sys.executable, "-X", "importtime", "-m", "worker.cli", "health", "--live"]
        done = subprocess.run(command, env=system.environ(), cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {"celery", "sqlalchemy", "click", "pydantic", "aiohttp", "structlog", "asyncio"}


def obstacles(system: System) -> list[str]:
    found: list[str] = ask(system, "--ready")[1]["workers"][0]["obstacles"]
    return found
