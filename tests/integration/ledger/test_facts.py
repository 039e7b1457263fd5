"""Facts and fences: a ledger whose answers are lost, a worker that slept, a broker that repeats itself, two leaders."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sendq import Send, SendQueue, State
from sendq.errors import LedgerUnavailable
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from tests.integration.loops.test_dispatcher import LEASE_S, Standing
from tests.support.ledger import MESSAGE, Ledger
from tests.support.proxy import Proxy
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import LIMIT_S, eventually
from worker.redis.embedded import redis_client


@pytest.fixture
def system(pg_server: PgServer, tmp_path: Path) -> Iterator[System]:
    with pg_server.ledger() as url, running(url, tmp_path, latency=0.05) as system:
        yield system


@pytest.fixture
def proxy(pg_server: PgServer) -> Iterator[Proxy]:
    """Between the workers and their ledger; the test itself goes straight to it."""
    with Proxy(pg_server.host, pg_server.port) as proxy:
        yield proxy


def send(system: System, count: int, *, lanes: int = 10) -> list[str]:
    return [job.id for job in system.queue.send_many([Send(f"g{number % lanes}", mail()) for number in range(count)])]


def assert_each_went_once(system: System, jobs: list[str]) -> None:
    accepted = system.accepted()
    assert {job: accepted[job] for job in jobs} == dict.fromkeys(jobs, 1)


def assert_nothing_is_left_open(system: System) -> None:
    eventually(lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE turn IS NOT NULL") == 0, "the turns' ends")
    assert system.scalar("SELECT count(*) FROM sendq_job WHERE state = 'sending'") == 0


def told(system: System) -> Counter[str]:
    """How often the workers told of an attempt of each job."""
    lines = (line for worker in system.workers for line in worker.said().splitlines() if line.startswith("{"))
    return Counter(event["job"] for event in map(json.loads, lines) if event["event"] in ("accepted", "attempt_failed"))


class TestACommitWhoseAnswerIsLost:
    """It happened, and the connection breaks before anybody hears of it: once for each transaction of a worker."""

    @pytest.mark.parametrize(
        ("speaks_of", "times"),
        [
            pytest.param(b"DELETE FROM sendq_wake", 1, id="the dispatcher takes in new jobs"),
            pytest.param(b"fence=(sendq_lane.fence", 2, id="the dispatcher offers turns"),
            pytest.param(b"CROSS JOIN LATERAL", 2, id="a worker claims"),
            pytest.param(b"INSERT INTO sendq_attempt", 2, id="the recorder records"),
            pytest.param(b"UPDATE sendq_worker", 2, id="a worker beats"),
        ],
    )
    def test_loses_nothing_and_sends_nothing_twice(
        self, system: System, proxy: Proxy, speaks_of: bytes, times: int
    ) -> None:
        loss = proxy.lose_answer_to(b"COMMIT", after=speaks_of, times=times)
        jobs = send(system, 60)
        system.start_worker(
            DATABASE_URL=proxy.in_place_of(system.ledger_url), SENDQ_LOG_LEVEL="DEBUG", SENDQ_UNCLAIMED_AFTER_S="3"
        )
        eventually(lambda: loss.left == 0, "the lost answers")
        system.wait_for(State.SENT, 60)
        assert_each_went_once(system, jobs)
        assert_nothing_is_left_open(system)
        asked = system.scalar("SELECT count(*) FROM sendq_attempt WHERE status IS NOT NULL")
        assert asked == len(system.api.requests)
        assert set(told(system).values()) <= {1}
        assert "sent_twice" not in system.workers[0].said()

    def test_of_an_enqueue_is_found_again_by_its_key(self, system: System, proxy: Proxy) -> None:
        engine = open_engine(proxy.in_place_of(system.ledger_url))
        queue = SendQueue(engine)
        loss = proxy.lose_answer_to(b"COMMIT", after=b"INSERT INTO sendq_job")
        with pytest.raises(LedgerUnavailable):
            queue.send("g1", MESSAGE, key="invoice-42")
        assert loss.happened.is_set()
        job = queue.send("g1", MESSAGE, key="invoice-42").id
        engine.dispose()
        assert system.count(schema.job) == 1
        system.start_worker()
        eventually(lambda: system.state(job) is State.SENT, "the sending")
        assert_each_went_once(system, [job])


class TestALedgerThatIsAwayForAWhile:
    @pytest.mark.parametrize("how", ["cut", "freeze"])
    def test_gets_the_outcomes_first_and_meanwhile_no_call_begins(self, system: System, proxy: Proxy, how: str) -> None:
        system.api.behaviour.latency = 1.5
        system.prove()
        worker = system.start_worker(DATABASE_URL=proxy.in_place_of(system.ledger_url))
        jobs = send(system, 40, lanes=10)
        eventually(lambda: len(system.api.requests) >= 10, "calls on the wire")
        getattr(proxy, how)()
        away_at = time.monotonic()
        eventually(lambda: len(system.api.mailbox) == len(system.api.requests), "their answers")
        # Longer than a worker may be silent: nobody may take this one for dead for the ledger's sake.
        begun = len(system.api.requests)
        eventually(lambda: time.monotonic() - away_at > 10, "a long while")
        assert len(system.api.requests) == begun, "a call began without a ledger to write it down"
        assert system.states()[State.SENT] < begun
        proxy.forward()
        system.wait_for(State.SENT, 40)
        assert_each_went_once(system, jobs)
        assert_nothing_is_left_open(system)
        rules = Counter(attempt.rule for job in jobs for attempt in system.queue.job(job).trail)
        assert rules == {"accepted": 40}, "each was asked for once, and its outcome kept"
        assert worker.process.poll() is None


class TestAWorkerThatSlept:
    def test_tells_the_truth_when_it_wakes_and_it_is_written_down(self, system: System) -> None:
        """Suspended with calls on the wire, buried, its jobs repeated under their keys by another; then it wakes."""
        system.api.behaviour.latency = 1.0
        system.prove()
        sleeper = system.start_worker(SENDQ_LOG_LEVEL="DEBUG")
        jobs = send(system, 8, lanes=8)
        eventually(lambda: len(system.api.requests) == 8, "calls on the wire")
        os.kill(sleeper.pid, signal.SIGSTOP)
        system.start_worker()
        system.wait_for(State.SENT, 8)
        fences = {row.grant_id: row.fence for row in system.rows(schema.lane)}
        os.kill(sleeper.pid, signal.SIGCONT)
        eventually(lambda: "worker_registered_again" in sleeper.said(), "its new name")
        eventually(lambda: sleeper.said().count("late_outcome") == 8, "its facts")
        for job in jobs:
            view = system.queue.job(job)
            rules = Counter(attempt.rule for attempt in view.trail)
            assert rules == {"worker_died": 1, "accepted": 2}, "its own answer, and the replay that the other one got"
            assert sum(attempt.replayed for attempt in view.trail) == 1
            assert view.state is State.SENT
        assert_each_went_once(system, jobs)
        assert_nothing_is_left_open(system)
        assert {row.grant_id: row.fence for row in system.rows(schema.lane)} == fences
        assert "sent_twice" not in sleeper.said()


class TestAMessageThatTheBrokerRepeats:
    def test_after_its_turn_is_over_changes_nothing(self, system: System) -> None:
        worker = system.start_controlled_worker(
            SENDQ_UNCLAIMED_AFTER_S="60", SENDQ_LOCAL_TURNS="false", SENDQ_LOG_LEVEL="DEBUG"
        )
        system.control("cancel_consumer", "sendq")
        jobs = send(system, 10, lanes=5)
        with redis_client(system.redis.url) as client:
            eventually(lambda: client.llen("sendq"), "bundles in the broker")
            eventually(
                lambda: system.scalar("SELECT count(*) FROM sendq_lane WHERE turn = 'offered'") == 5, "five turns"
            )
            bundles = client.lrange("sendq", 0, -1)
            system.control("add_consumer", "sendq")
            system.wait_for(State.SENT, 10)
            assert_nothing_is_left_open(system)
            before = sorted(map(tuple, system.rows(schema.lane)))
            handled = worker.said().count("succeeded in")
            for _ in range(3):
                client.rpush("sendq", *bundles)
            eventually(lambda: worker.said().count("succeeded in") >= handled + 3 * len(bundles), "the repeats")
        assert sorted(map(tuple, system.rows(schema.lane))) == before
        assert system.count(schema.attempt) == 10
        more = send(system, 10, lanes=5)
        system.wait_for(State.SENT, 20)
        assert_each_went_once(system, jobs + more)


@pytest.fixture
def standing(ledger: Ledger) -> Iterator[Standing]:
    with closing(Standing(ledger)) as standing:
        yield standing


class TestTwoLeadersAtOnce:
    def test_give_no_lane_two_turns(self, ledger: Ledger, standing: Standing) -> None:
        """One slept past its lease, and goes on believing until it asks again."""
        first, second = standing.dispatcher(), standing.dispatcher()
        first.run_once()
        ledger.clock.advance(LEASE_S + 1)  # on the wall clock; its own stopwatch stood still, as in a suspended machine
        second.run_once()
        assert standing.leads == [True, True]
        for number in range(6):
            ledger.send(f"g{number}")
        ledger.clock.advance(1)
        first.run_once()
        second.run_once()
        first.run_once()
        assert len(standing.offered) == len(set(standing.offered)) > 0
        assert {row.fence for row in ledger.rows(schema.lane) if row.turn} == {1}
        standing.monotonic.at += LEASE_S
        ledger.clock.advance(1)
        first.run_once()
        assert standing.leads == [False, True]

    def test_give_no_lane_two_turns_at_the_same_moment(self, pg_ledger: Ledger) -> None:
        with closing(Standing(pg_ledger)) as standing:
            self.lead_together(pg_ledger, standing)

    def lead_together(self, pg_ledger: Ledger, standing: Standing) -> None:
        leaders = [standing.dispatcher() for _ in range(2)]
        leaders[0].run_once()
        pg_ledger.clock.advance(LEASE_S + 1)
        leaders[1].run_once()
        assert all(standing.leads)
        for number in range(40):
            pg_ledger.send(f"g{number}", application=f"a{number}")  # one that is not proven has one call at a time
        pg_ledger.clock.advance(1)
        errors: list[BaseException] = []
        at_once = threading.Barrier(2)

        def lead(number: int) -> None:
            try:
                for _ in range(10):
                    at_once.wait(LIMIT_S)
                    leaders[number].run_once()
            except BaseException as error:
                errors.append(error)
                at_once.abort()

        threads = [threading.Thread(target=lead, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert errors == []
        assert len(standing.offered) == len(set(standing.offered)) == 20, "as many as two workers have room for"
        assert {row.fence for row in pg_ledger.rows(schema.lane) if row.turn} == {1}
