"""What breaks, and what happens then: real processes are killed, frozen and stopped, and the ledger must add up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendq import Send, State
from sendq.ledger.db import schema
from sendq.simulator import Fault
from tests.support.servers import PgServer
from tests.support.system import System, mail, running
from tests.support.waiting import LIMIT_S, eventually


@pytest.fixture
def system(pg_server: PgServer, tmp_path: Path) -> Iterator[System]:
    """A system of this test's own, without a worker yet; the API takes a moment, so that calls are met on the wire."""
    with pg_server.ledger() as url, running(url, tmp_path, latency=0.1) as system:
        yield system


def send(system: System, count: int, *, lanes: int = 10) -> list[str]:
    sends = [Send(f"g{number % lanes}", mail()) for number in range(count)]
    return [job.id for job in system.queue.send_many(sends)]


def assert_each_went_once(system: System, jobs: list[str]) -> None:
    accepted = system.accepted()
    assert {job: accepted[job] for job in jobs} == dict.fromkeys(jobs, 1)


class TestRedis:
    def test_enqueue_goes_on_without_it_and_all_is_sent_when_it_is_back(self, system: System) -> None:
        worker = system.start_worker(SENDQ_LOCAL_TURNS="false")
        first = send(system, 20)
        system.wait_for(State.SENT, 20)
        system.redis.stop()
        while_down = send(system, 20)
        assert system.states()[State.SENT] == 20
        system.redis.start()
        system.wait_for(State.SENT, 40)
        assert_each_went_once(system, first + while_down)
        assert worker.process.poll() is None

    def test_the_leader_goes_on_sending_without_it(self, system: System) -> None:
        system.prove()
        system.start_worker()
        jobs = send(system, 5)
        system.wait_for(State.SENT, 5)
        system.redis.stop()
        jobs += send(system, 20)
        system.wait_for(State.SENT, 25)
        system.redis.start()
        assert_each_went_once(system, jobs)

    def test_turns_in_a_broker_that_lost_everything_are_handed_out_again(self, system: System) -> None:
        system.start_controlled_worker(SENDQ_UNCLAIMED_AFTER_S="3", SENDQ_LOCAL_TURNS="false")
        system.control("cancel_consumer", "sendq")  # it dispatches still, and reads nothing
        jobs = send(system, 10)
        offered = "SELECT count(*) FROM sendq_lane WHERE turn = 'offered'"
        eventually(lambda: system.scalar(offered) > 0, "turns in the broker")
        system.lose_messages()
        system.control("add_consumer", "sendq")
        system.wait_for(State.SENT, 10)
        assert_each_went_once(system, jobs)


class TestAWorkerThatDies:
    def test_what_it_had_on_the_wire_goes_again_under_its_key_within_16_seconds(self, system: System) -> None:
        system.prove()
        doomed = system.start_worker()
        system.api.behaviour.latency = 15.0 * system.slowness  # longer than a second worker takes to start
        jobs = send(system, 12, lanes=12)
        eventually(lambda: len(system.api.requests) >= 12, "all calls on the wire")
        survivor = system.start_worker()
        system.api.behaviour.latency = 0.1
        doomed.kill()
        killed_at = time.monotonic()
        eventually(lambda: system.states()[State.SENDING] == 0, "the rescue")
        took = time.monotonic() - killed_at
        system.wait_for(State.SENT, 12)
        assert took <= 16.0 * system.slowness
        assert_each_went_once(system, jobs)
        assert all(request.key.endswith(":0") for request in system.api.requests if request.key)
        deaths = [attempt.rule for job in jobs for attempt in system.queue.job(job).trail]
        assert deaths.count("worker_died") == 12
        assert survivor.process.poll() is None

    def test_the_dispatchers_place_is_taken_within_five_seconds(self, system: System) -> None:
        leader = system.start_worker()
        eventually(lambda: "became_leader" in leader.said(), "the first leader")
        follower = system.start_worker()
        leader.kill()
        killed_at = time.monotonic()
        eventually(lambda: "became_leader" in follower.said(), "the second leader")
        assert time.monotonic() - killed_at <= 5.0 * system.slowness
        jobs = send(system, 5)
        system.wait_for(State.SENT, 5)
        assert_each_went_once(system, jobs)

    def test_one_that_only_slept_is_told_and_sends_nothing_twice(self, system: System) -> None:
        system.prove()
        sleeper = system.start_worker()
        jobs = send(system, 30, lanes=30)
        eventually(lambda: len(system.api.requests) >= 5, "some calls on the wire")
        os.kill(sleeper.pid, signal.SIGSTOP)
        system.start_worker()
        system.wait_for(State.SENT, 30)
        os.kill(sleeper.pid, signal.SIGCONT)
        eventually(lambda: "worker_registered_again" in sleeper.said(), "its new name")
        more = send(system, 10)
        system.wait_for(State.SENT, 40)
        assert_each_went_once(system, jobs + more)


class TestWorkersWithOtherHeartbeats:
    def test_work_together_and_each_is_judged_by_its_own(self, system: System) -> None:
        """The one that beats often would have declared the other dead between two of its beats."""
        slow = system.start_worker(SENDQ_BEAT_INTERVAL_S="6", SENDQ_STALE_AFTER_S="20")
        system.start_worker(SENDQ_BEAT_INTERVAL_S="1", SENDQ_STALE_AFTER_S="4")
        jobs = send(system, 40)
        beats = f"SELECT coalesce(max(beats), -1) FROM sendq_worker WHERE pid = {slow.pid}"
        eventually(lambda: system.scalar(beats) >= 2, "the second beat of the slow one")
        jobs += send(system, 40)
        system.wait_for(State.SENT, 80)
        assert_each_went_once(system, jobs)
        assert "worker_registered_again" not in slow.said()


class TestStopping:
    def test_calls_on_the_wire_are_finished_and_the_rest_goes_back(self, system: System) -> None:
        system.api.behaviour.latency = 1.0
        worker = system.start_worker(SENDQ_CONCURRENCY="5")
        jobs = send(system, 15, lanes=15)
        eventually(lambda: len(system.api.requests) >= 5, "calls on the wire")
        assert worker.terminate() == 0
        states = system.states()
        assert states[State.SENDING] == 0
        assert states[State.SENT] == len(system.api.mailbox)
        assert system.count(schema.worker) == 0
        system.start_worker()
        system.wait_for(State.SENT, 15)
        assert_each_went_once(system, jobs)

    def test_what_is_not_finished_in_time_is_asked_again_under_the_same_key(self, system: System) -> None:
        system.api.will(Fault.hang(accepted=True), grant="hangs", times=1)
        worker = system.start_worker(SENDQ_GRACE_S="5.5")
        job = system.queue.send("hangs", mail()).id
        eventually(lambda: system.api.requests, "the call")
        began = time.monotonic()
        assert worker.terminate() == 0
        assert time.monotonic() - began < 8 * system.slowness
        assert [attempt.rule for attempt in system.queue.job(job).trail] == ["worker_stopped"]
        system.start_worker()
        eventually(lambda: system.state(job) is State.SENT, "the answer to the repeat")
        assert_each_went_once(system, [job])


class TestStoppingInAHurry:
    def slow(self, system: System) -> list[str]:
        """Ten lanes: the calls of five hang on the wire, the others wait for room."""
        system.api.will(Fault.hang(accepted=True), times=5)
        system.prove()
        jobs = send(system, 10)
        eventually(lambda: len(system.api.requests) >= 5, "calls on the wire")
        return jobs

    @pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
    def test_a_second_signal_waits_for_no_call_and_loses_none(self, system: System, signum: signal.Signals) -> None:
        worker = system.start_worker(SENDQ_CONCURRENCY="5")
        jobs = self.slow(system)
        worker.process.send_signal(signum)
        eventually(lambda: "worker_stopping" in worker.said(), "the first signal")
        assert worker.process.poll() is None, "it waits for its calls"
        asked_again = time.monotonic()
        worker.process.send_signal(signum)
        assert worker.process.wait(LIMIT_S) == 0
        assert time.monotonic() - asked_again < 5.0 * system.slowness
        self.assert_handed_over(system, jobs)

    def test_sigquit_does_so_at_once(self, system: System) -> None:
        worker = system.start_worker(SENDQ_CONCURRENCY="5")
        jobs = self.slow(system)
        worker.process.send_signal(signal.SIGQUIT)
        assert worker.process.wait(10 * system.slowness) == 0
        self.assert_handed_over(system, jobs)

    def assert_handed_over(self, system: System, jobs: list[str]) -> None:
        assert system.count(schema.worker) == 0
        assert system.scalar("SELECT count(*) FROM sendq_lane WHERE turn IS NOT NULL") == 0
        assert system.states() == {State.QUEUED: 10}
        unknown = [job for job in jobs if system.queue.job(job).trail]
        assert len(unknown) >= len(system.api.requests)
        assert {attempt.rule for job in unknown for attempt in system.queue.job(job).trail} == {"worker_stopped"}
        assert system.scalar("SELECT max(deaths) FROM sendq_job") == 0
        began = time.monotonic()
        system.start_worker()
        system.wait_for(State.SENT, 10)
        assert time.monotonic() - began < 16 * system.slowness
        assert_each_went_once(system, jobs)


class TestOneTiredAccount:
    def test_lanes_that_hang_do_not_keep_the_others_waiting(self, system: System) -> None:
        system.api.behaviour.latency = 0.0
        for number in range(8):
            system.api.will(Fault.hang(), grant=f"hangs-{number}", times=None)
        system.start_worker(SENDQ_CONCURRENCY="8", SENDQ_SLOW_AFTER_S="1", SENDQ_GRACE_S="5.5")
        system.queue.send_many([Send(f"hangs-{number}", mail()) for number in range(8)])
        eventually(lambda: len(system.api.requests) >= 8, "every slot taken by a call that hangs")
        jobs = send(system, 20)
        system.wait_for(State.SENT, 20, limit_s=10 * system.slowness)
        assert_each_went_once(system, jobs)

    def test_an_urgent_message_passes_a_backlog_of_its_own_lane(self, system: System) -> None:
        system.api.behaviour.latency = 0.05
        system.start_worker()
        system.queue.send_many([Send("busy", mail("backlog@example.com")) for _ in range(200)])
        eventually(lambda: len(system.api.mailbox) >= 10, "the backlog on its way")
        urgent = system.queue.send("busy", mail("urgent@example.com"), priority="high")
        eventually(lambda: system.state(urgent.id) is State.SENT, "the urgent message")
        assert len(system.api.mailbox) < 200


class TestTheApplicationsFault:
    def test_a_bad_key_costs_few_calls_and_no_dead_letter_and_everything_goes_when_it_is_mended(
        self, system: System, tmp_path: Path
    ) -> None:
        key = tmp_path / "key"
        key.write_text("wrong-key")
        with system.policy.open("a") as policy:
            policy.write('[[change]]\nid = "api_key"\nwait = { default = 2, cap = 2 }\n')
        environ = {"NYLAS_API_KEY": "", "NYLAS_API_KEY_FILE": str(key)}
        jobs = send(system, 200, lanes=50)
        worker = system.start_worker(**environ)
        eventually(lambda: "held" in worker.said(), "the application's hold")
        assert system.queue.why(jobs[-1]).reason == "held"
        assert len(system.api.requests) < 20
        assert system.states()[State.DEAD] == 0
        key.write_text("test-key")
        system.wait_for(State.SENT, 200)
        assert_each_went_once(system, jobs)
