"""Clocks that are an hour wrong: nothing goes twice, nothing is lost, nothing floods. Real workers, real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sendq import SendQueue, State, clock
from sendq.clock import SECOND
from sendq.operators import Operators
from sendq.simulator import Fault
from tests.integration.loops.test_reconciler import NOT_SENT, in_doubt, look, row_of, sent, set_job
from tests.support.system import System, mail, running_on
from tests.support.waiting import eventually

HOUR_S = 3600
THROTTLED = Fault.status(429, type="rate_limit_error", message="slow down", headers={"Retry-After": "20"})
LOST = Fault.drop(name="lost", accepted=True, kept="nothing")  # it went out, and its key does not remember


both = pytest.mark.parametrize("system", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True)


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A system of this test's own; on SQLite, where there is no other clock than the workers' own."""
    with running_on(getattr(request, "param", "sqlite"), request, tmp_path) as system:
        yield system


class WrongClock:
    """The file that a worker's clock follows."""

    def __init__(self, path: Path, seconds: float = 0) -> None:
        self.path = path
        self.set(seconds)

    def set(self, seconds: float) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(str(seconds))
        os.replace(new, self.path)
        self.shift = clock.seconds(seconds)

    def queue(self, system: System) -> SendQueue:
        """A web application on the same machine: to others, what it enqueues may be due in an hour."""
        shift = self.shift
        return SendQueue(system.engine, now=lambda: clock.now() + shift)


@pytest.fixture
def wrong(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path / "clock")


def highest(system: System) -> int:
    return system.scalar("SELECT highest_at FROM sendq_leader")


class TestAClockThatIsWrong:
    @both
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_loses_nothing_and_sends_nothing_twice(self, system: System, wrong: WrongClock, hours: int) -> None:
        wrong.set(hours * HOUR_S)
        system.start_worker(wrong_clock=str(wrong.path))
        queue = wrong.queue(system) if system.engine.dialect.name == "sqlite" else system.queue
        jobs = [queue.send(f"g{n % 5}", mail()).id for n in range(50)]
        system.wait_for(State.SENT, 50)
        assert system.accepted() == dict.fromkeys(jobs, 1)

    @pytest.mark.parametrize("system", ["postgresql"], indirect=True)
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_does_not_matter_where_the_ledger_has_one(self, system: System, wrong: WrongClock, hours: int) -> None:
        """One worker that leads with a wrong clock, and then one whose clock is right: nothing waits for an hour."""
        wrong.set(hours * HOUR_S)
        first = system.start_worker(wrong_clock=str(wrong.path))
        job = system.queue.send("g", mail()).id
        eventually(lambda: system.state(job) is State.SENT, "the sending")
        first.kill()
        system.start_worker()
        again = system.queue.send("g", mail()).id
        eventually(lambda: system.state(again) is State.SENT, "the sending by another")
        assert "clock_behind" not in first.said()

    def test_beside_others_makes_no_open_key_go_twice(self, system: System, wrong: WrongClock) -> None:
        """The worker with the clock ahead learns nothing of the first call; the others must not repeat it."""
        wrong.set(HOUR_S)
        ahead = system.start_worker(wrong_clock=str(wrong.path))
        eventually(lambda: highest(system) > clock.now() + HOUR_S // 2 * SECOND, "the highest time")
        system.api.will(LOST, grant="g", operation="send")
        system.api.behaviour.latency = 1.0
        job = system.queue.send("g", mail()).id
        eventually(lambda: system.api.requests, "the first call")
        ahead.kill()
        behind = system.start_worker()
        eventually(lambda: "clock_behind" in behind.said(), "its noticing")
        eventually(lambda: system.state(job) is State.IN_DOUBT, "the doubt")
        assert system.accepted() == {job: 1}


class TestAClockThatIsSetBack:
    def test_trusts_no_open_key_till_it_has_caught_up(self, system: System, wrong: WrongClock) -> None:
        wrong.set(0)
        worker = system.start_worker(wrong_clock=str(wrong.path))
        system.queue.send("first", mail())  # with a success, more than one call at once
        system.wait_for(State.SENT, 1)
        eventually(lambda: highest(system) > clock.now() - 60 * SECOND, "the highest time")
        system.api.will(Fault.hang(accepted=True, kept="nothing"), grant="g", operation="send")
        job = system.queue.send("g", mail()).id
        eventually(lambda: any(one.job == job for one in system.api.requests), "the call")
        # First used two hours ago, by a clock that was right; by the one that is set back, a quarter of an hour ago.
        set_job(system, job, key_at=clock.now() - 2 * HOUR_S * SECOND)
        wrong.set(-1.75 * HOUR_S)
        eventually(lambda: "clock_behind" in worker.said(), "its noticing")
        other = wrong.queue(system).send("h", mail())
        eventually(lambda: system.state(other.id) is State.SENT, "a first request, which nothing speaks against")
        worker.kill()
        system.start_worker(wrong_clock=str(wrong.path))
        eventually(lambda: system.state(job) is State.IN_DOUBT, "the doubt")
        assert system.accepted()[job] == 1

    def test_is_noticed_by_the_time_of_the_api(self, system: System, wrong: WrongClock) -> None:
        """A machine that was never right: nobody else has seen the time, but the API says it."""
        wrong.set(-HOUR_S)
        worker = system.start_worker(wrong_clock=str(wrong.path))
        wrong.queue(system).send("g", mail())
        system.wait_for(State.SENT, 1)
        eventually(lambda: "clock_behind" in worker.said(), "its noticing")
        eventually(lambda: highest(system) > clock.now() - 60 * SECOND, "the highest time in the ledger")


class TestAClockThatWasAheadForSomeSeconds:
    def test_delays_nothing_once_it_is_right_again(self, system: System, wrong: WrongClock) -> None:
        """Ten minutes ahead, which is longer than anything here waits."""
        wrong.set(600)
        worker = system.start_worker(wrong_clock=str(wrong.path))
        grants = [f"g{number}" for number in range(5)]
        system.api.will(THROTTLED, grant="g0", operation="send")
        for grant in grants:
            system.queue.send(grant, mail(), provider="google")
        system.wait_for(State.SENT, 4)
        eventually(lambda: system.scalar("SELECT renewals FROM sendq_leader") > 3, "some seconds of it")
        wrong.set(0)
        jobs = [system.queue.send(grant, mail(), provider="google").id for grant in [*grants, "new"]]
        eventually(lambda: {system.state(job) for job in jobs[1:]} == {State.SENT}, "all that nothing else delays")
        eventually(lambda: system.state(jobs[0]) is State.SENT, "what waited for the end of a hold")
        assert '"clock_set_back"' in worker.said()
        assert len(Operators(system.engine).events(kind=["clock_set_back"]).items) == 1


class TestLookingWithAClockThatIsAhead:
    def test_takes_the_apis_word_for_when_not_found_counts(self, system: System, wrong: WrongClock) -> None:
        right = system.start_worker()
        job = in_doubt(system, "g", NOT_SENT)
        right.kill()
        wrong.set(3 * HOUR_S)
        system.start_worker(wrong_clock=str(wrong.path))
        sent(system, "g")
        assert look(system, job).seen == "early"
        assert row_of(system, job).misses == 0
