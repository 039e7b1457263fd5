"""The dispatcher: who leads, what a clock that is set does to it, and what it does not survive by itself."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from sendq import Operators, clock
from sendq.clock import SECOND
from sendq.errors import Retryable
from sendq.facts.lanes import Lane
from sendq.facts.turns import Turn
from sendq.ids import lane_id, new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching import workers
from sendq.rules.paces import Paces
from tests.support.ledger import Ledger
from tests.support.waiting import LIMIT_S, eventually
from worker.leading import dispatcher as dispatcher_module
from worker.leading.dispatcher import CLOSELY, FULL_PAUSE, STEADY, Dispatcher
from worker.leading.leadership import Leadership
from worker.leading.rounds import AT_ONCE_MOST

DAY_S = 24 * 3600
POLL_S, LEASE_S = 0.2, 4.5


class Wakeup:
    """One that is never woken and does not wait."""

    can_notify = False
    poll_every = SECOND

    def __init__(self) -> None:
        self.waited: list[float] = []

    def wait_for(self, limit_s: float) -> bool:
        self.waited.append(limit_s)
        return False

    def catch_up(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class NotifyingWakeup(Wakeup):
    """One that commits notify: the dispatcher writes down until when it sleeps."""

    can_notify = True


class Monotonic:
    """A stopwatch that goes only when told."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


class Standing:
    """Several dispatchers of one ledger, and the clocks of their machine."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.clock, self.monotonic = ledger, ledger.clock, Monotonic()
        self.offered: list[UUID] = []
        self.made: list[Dispatcher] = []
        self.leaderships: list[Leadership] = []  # of each dispatcher

    @property
    def leads(self) -> list[bool]:
        """Which of the dispatchers lead."""
        return [one.leads for one in self.leaderships]

    def dispatcher(self, wakeup: Any = None, *, worker: UUID | None = None, **options: Any) -> Dispatcher:
        worker = worker or new_id()
        with self.ledger.writing() as connection:
            load = workers.Load(capacity=10)
            workers.register(connection, worker, name="w", pid=1, version="0", load=load, now=self.clock())
        self.leaderships.append(
            Leadership(
                self.ledger.engine,
                holder=lambda: worker,
                now=self.clock,
                monotonic=self.monotonic,
                lease_s=LEASE_S,
                poll_s=POLL_S,
            )
        )
        made = Dispatcher(
            self.ledger.engine,
            lambda bundles: self.offered.extend(turn.lane_id for bundle in bundles for turn in bundle),
            wakeup or Wakeup(),
            leadership=self.leaderships[-1],
            holder=lambda: worker,
            now=self.clock,
            poll_s=POLL_S,
            bundle_turns=50,
            paces=Paces(),
            bundle_slots=100,
            **options,
        )
        self.made.append(made)
        return made

    def close(self) -> None:
        for dispatcher in self.made:
            dispatcher.close()

    def prove_pair(self) -> None:
        """Calls of the lanes' pair have just succeeded, so that they need not go one by one."""
        pair = {"application": "default", "provider": "unknown", "ramp": None, "proven_at": self.clock()}
        with self.ledger.writing() as connection:
            insert_new(connection, schema.pair, [pair], returning="provider")

    def pass_time(self, seconds: float) -> None:
        """On both clocks."""
        self.clock.advance(seconds)
        self.monotonic.at += seconds

    def leader(self) -> Any:
        (row,) = self.ledger.rows(schema.leader)
        return row


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """The statements that a ledger is given within the block."""
    seen: list[str] = []

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(ledger.engine, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        event.remove(ledger.engine, "before_cursor_execute", before)


@pytest.fixture
def standing(ledger: Ledger) -> Iterator[Standing]:
    standing = Standing(ledger)
    yield standing
    standing.close()


class TestTheLease:
    def test_is_renewed_though_the_clock_was_set_back(self, standing: Standing) -> None:
        first, second = standing.dispatcher(), standing.dispatcher()
        first.run_once()
        standing.clock.advance(-DAY_S)
        standing.pass_time(LEASE_S / 2)
        first.run_once()
        assert standing.leader().expires_at == standing.clock() + LEASE_S * SECOND
        second.run_once()
        assert standing.leads == [True, False]

    def test_of_a_leader_that_died_runs_out_though_its_clock_was_a_day_ahead(self, standing: Standing) -> None:
        first, second = standing.dispatcher(), standing.dispatcher()
        standing.clock.advance(DAY_S)
        first.run_once()
        standing.clock.advance(-DAY_S)
        for _ in range(40):
            second.run_once()
            if standing.leads[1]:
                break
            standing.pass_time(POLL_S)
        assert standing.leads[1]
        assert standing.monotonic.at - 1_000.0 <= LEASE_S + 2 * POLL_S

    def test_stays_with_a_leader_that_renews_it_whatever_its_clock_says(self, standing: Standing) -> None:
        first, second = standing.dispatcher(), standing.dispatcher()
        for _ in range(100):
            standing.clock.advance(DAY_S)
            first.run_once()
            standing.clock.advance(-DAY_S)
            second.run_once()
            assert standing.leads == [True, False]
            standing.pass_time(POLL_S)

    def test_that_somebody_else_took_is_noticed_before_going_to_sleep(self, standing: Standing) -> None:
        first, second = standing.dispatcher(NotifyingWakeup()), standing.dispatcher()
        first.run_once()
        standing.clock.advance(LEASE_S + 1)  # but not on the stopwatch: the machine was suspended
        second.run_once()
        assert standing.leads[1]
        standing.clock.advance(1)
        first.run_once()
        assert not standing.leads[0]


class TestStandingBy:
    def test_asks_for_the_lease_once_in_a_while_however_often_it_is_woken(self, standing: Standing) -> None:
        first, second = standing.dispatcher(), standing.dispatcher()
        first.run_once()
        with statements(standing.ledger) as seen:
            for _ in range(50):
                second.run_once()
        assert len([one for one in seen if "sendq_leader" in one]) <= 1
        standing.pass_time(POLL_S)
        with statements(standing.ledger) as seen:
            second.run_once()
        assert len([one for one in seen if "sendq_leader" in one]) == 1
        assert not [one for one in seen if "UPDATE" in one]  # nor does it lock, which costs a write


class TestSleeping:
    def test_costs_one_look_each_time_and_commits_notify_all_the_while(self, standing: Standing) -> None:
        dispatcher = standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        with statements(standing.ledger) as seen:
            for _ in range(100):
                standing.pass_time(POLL_S)
                dispatcher.run_once()
                assert standing.leader().sleeps_until > standing.clock() + SECOND
        assert sum("sleeps_until" in one and "UPDATE" in one for one in seen) <= 5  # 20 s, asked for 10 s ahead
        assert not [one for one in seen if "DELETE" in one]

    def test_goes_on_around_jobs_that_come_one_by_one(self, standing: Standing) -> None:
        dispatcher = standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        standing.prove_pair()
        with statements(standing.ledger) as seen:
            for number in range(STEADY + 1):
                standing.ledger.send(f"g{number}")
                assert dispatcher.run_once() > FULL_PAUSE  # it waits until it is woken
                standing.pass_time(2 * CLOSELY / SECOND)
        assert len(standing.offered) == STEADY + 1
        assert standing.leader().sleeps_until > standing.clock()
        assert not [one for one in seen if "UPDATE sendq_leader" in one]

    def test_ends_when_the_next_lane_is_due(self, standing: Standing) -> None:
        ledger, dispatcher = standing.ledger, standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        standing.prove_pair()
        ledger.send("now")
        ledger.send("later", due_at=clock.moment(ledger.clock() + SECOND // 4))
        assert dispatcher.run_once() == SECOND // 4
        standing.pass_time(0.25)
        dispatcher.run_once()
        assert standing.offered == [lane_id("default", "now"), lane_id("default", "later")]

    def test_does_not_begin_while_further_lanes_may_be_due(self, standing: Standing) -> None:
        dispatcher = standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        standing.prove_pair()
        for number in range(12):  # the only worker has ten slots
            standing.ledger.send(f"g{number}")
        assert dispatcher.run_once() <= FULL_PAUSE

    def test_ends_with_steady_work_and_commits_notify_no_more(self, standing: Standing) -> None:
        dispatcher = standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        for number in range(STEADY):
            assert standing.leader().sleeps_until > 0
            standing.ledger.send(f"g{number}")
            dispatcher.run_once()
        assert standing.leader().sleeps_until == 0
        assert dispatcher.run_once() <= FULL_PAUSE  # it looks often, for a while

    def test_is_left_with_each_renewal_of_the_lease_though_nothing_notifies(self, standing: Standing) -> None:
        dispatcher = standing.dispatcher(NotifyingWakeup())
        self.fall_asleep(standing, dispatcher)
        standing.pass_time(LEASE_S / 3)
        assert dispatcher.run_once() == LEASE_S / 3 * SECOND

    def test_begins_with_one_more_look_at_everything(self, standing: Standing) -> None:
        """A commit between the last look and the ledger's learning of the sleep notifies nobody."""
        dispatcher = standing.dispatcher(NotifyingWakeup())
        dispatcher.run_once()
        standing.pass_time(1)
        assert dispatcher.run_once() == 0
        assert standing.leader().sleeps_until > 0
        assert dispatcher.run_once() > 0

    def fall_asleep(self, standing: Standing, dispatcher: Dispatcher) -> None:
        dispatcher.run_once()
        standing.pass_time(1)
        dispatcher.run_once()
        assert standing.leader().sleeps_until > standing.clock()


class TestTurns:
    def test_that_its_own_process_takes_on_are_not_published(self, standing: Standing) -> None:
        here: list[tuple[UUID, float]] = []

        def take_on(bundle: Sequence[Turn], busy: float) -> bool:
            here.extend((turn.lane_id, busy) for turn in bundle)
            return len(here) < 3

        dispatcher = standing.dispatcher(take_on=take_on)
        standing.prove_pair()
        dispatcher.run_once()
        for number in range(3):
            standing.ledger.send(f"g{number}")
            dispatcher.run_once()
        lanes = [lane_id("default", f"g{number}") for number in range(3)]
        assert [lane for lane, _ in here] == lanes
        assert [busy for _, busy in here] == pytest.approx([0.1, 0.2, 0.3])  # of ten slots
        assert standing.offered == lanes[2:]

    def test_that_its_own_process_claims_at_once_are_begun_and_not_handed_over(self, standing: Standing) -> None:
        tried: list[list[str]] = []
        begun: list[str] = []

        def at_once(connection: Any, offered: Sequence[Lane], _busy: float, until_over: ExitStack) -> Any:
            grants = [lane.grant_id for lane in offered]
            assert {lane.turn for lane in offered} == {"offered"}
            tried.append(grants)
            until_over.callback(lambda: begun.append("over"))
            if "g1" in grants:
                return None
            lane = schema.lane
            connection.execute(lane.update().where(lane.c.grant_id.in_(grants)).values(turn="claimed"))
            return lambda: begun.extend(grants)

        dispatcher = standing.dispatcher(claim_at_once=at_once)
        standing.prove_pair()
        dispatcher.run_once()
        for grant in ("g0", "g1"):
            standing.ledger.send(grant)
            dispatcher.run_once()
        assert tried == [["g0"], ["g1"]]
        assert begun == ["g0", "over", "over"]
        assert standing.offered == [lane_id("default", "g1")]

    def test_are_not_claimed_at_once_if_there_are_many(self, standing: Standing) -> None:
        tried: list[int] = []

        def at_once(_connection: Any, offered: Sequence[Lane], _busy: float, _until_over: ExitStack) -> Any:
            tried.append(len(offered))

        dispatcher = standing.dispatcher(claim_at_once=at_once)
        standing.prove_pair()
        dispatcher.run_once()
        for number in range(AT_ONCE_MOST + 1):
            standing.ledger.send(f"g{number}")
        dispatcher.run_once()
        assert (tried, len(standing.offered)) == ([], AT_ONCE_MOST + 1)

    def test_of_which_a_job_is_locked_are_handed_over(self, standing: Standing) -> None:
        tried: list[int] = []

        def at_once(_connection: Any, offered: Sequence[Lane], _busy: float, _until_over: ExitStack) -> Any:
            tried.append(len(offered))
            raise Retryable("another transaction has the job")

        dispatcher = standing.dispatcher(claim_at_once=at_once)
        dispatcher.run_once()
        standing.ledger.send("g1")
        dispatcher.run_once()
        assert (tried, standing.offered) == ([1], [lane_id("default", "g1")])
        assert standing.ledger.lane().fence == 1
        assert standing.ledger.rows(schema.wake) == []


class TestALateWakeRow:
    def test_is_found_soon_though_the_clock_was_ahead_for_a_while(self, standing: Standing) -> None:
        ledger, dispatcher = standing.ledger, standing.dispatcher()
        ledger.send("g1")
        wake = ledger.rows(schema.wake)
        with ledger.writing() as connection:  # a transaction that will commit late
            connection.execute(schema.wake.delete())
        ledger.send("g2")
        standing.clock.advance(DAY_S)
        dispatcher.run_once()
        standing.pass_time(11)
        dispatcher.run_once()
        standing.clock.advance(-DAY_S)
        with ledger.writing() as connection:
            connection.execute(schema.wake.insert().values(**wake[0]._mapping))
        standing.offered.clear()
        for _ in range(40):
            standing.pass_time(1)
            dispatcher.run_once()
        assert ledger.rows(schema.wake) == []


class TestAWakeupThatBreaks:
    def test_does_not_end_the_dispatcher(self, standing: Standing) -> None:
        class Broken(Wakeup):
            def wait_for(self, limit_s: float) -> bool:
                super().wait_for(limit_s)
                threading.Event().wait(0.001)
                raise sqlite3.OperationalError("disk I/O error")

        wakeup = Broken()
        dispatcher = standing.dispatcher(wakeup)
        dispatcher.start()
        try:
            # Time passes, or nothing would ever be quiet for long enough to wait for the wakeup.
            eventually(lambda: standing.clock.advance(0.1) and len(wakeup.waited) > 2, "waiting again")
        finally:
            dispatcher.stop(LIMIT_S)


class TestWhatHasWokenIt:
    def test_is_caught_up_with_before_the_round_that_sees_it(
        self, standing: Standing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []

        class Noting(Wakeup):
            def catch_up(self) -> None:
                order.append("caught up")

        dispatcher = standing.dispatcher(Noting())
        run = dispatcher._rounds.run

        def noted() -> Any:
            order.append("round")
            return run()

        monkeypatch.setattr(dispatcher._rounds, "run", noted)
        dispatcher.run_once()
        assert order == ["caught up", "round"]

    @pytest.mark.parametrize("notified", [False, True])
    def test_is_known_to_be_new_jobs_only_if_commits_notify(
        self, standing: Standing, monkeypatch: pytest.MonkeyPatch, notified: bool
    ) -> None:
        class Woken(Wakeup):
            can_notify = notified

            def wait_for(self, limit_s: float) -> bool:
                return True

        expected: list[bool] = []
        dispatcher = standing.dispatcher(Woken())
        rounds = dispatcher._rounds
        run = rounds.run

        def noted() -> Any:
            expected.append(rounds.expects_wakes)
            return run()

        monkeypatch.setattr(rounds, "run", noted)
        dispatcher.start()
        try:
            eventually(lambda: standing.clock.advance(0.1) and (any(expected) or len(expected) > 20), "rounds")
        finally:
            dispatcher.stop(LIMIT_S)
        assert any(expected) == notified


class TestADispatcherWhoseRoundsFail:
    def test_lets_another_process_lead_and_says_so(self, standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
        """As when its code was replaced under it."""
        monkeypatch.setattr(dispatcher_module, "ERROR_PAUSE_S", 0.001)
        broken, other = standing.dispatcher(), standing.dispatcher()
        failed: list[None] = []

        def fail(*_: Any) -> Any:
            failed.append(None)
            raise ImportError("cannot import name 'choose' from 'sendq.rules.fair_share'")

        monkeypatch.setattr(broken._rounds, "run", fail)
        job = standing.ledger.send("g1")
        broken.start()
        try:
            eventually(lambda: standing.leader().failing_since is not None, "that the ledger says so")
            eventually(lambda: not standing.leads[0], "another process's chance to lead")
            assert len(failed) == dispatcher_module.FAILED_MOST
            operators = Operators(standing.ledger.engine, now=standing.clock)
            assert "the dispatcher fails" in operators.why(str(job)).says
            assert operators.status().broker.failing_since is not None
            other.run_once()
            assert standing.leads == [False, True]
            assert standing.leader().failing_since is None
            assert len(standing.offered) == 1
            standing.pass_time(LEASE_S)
            other.run_once()  # renews the lease, so that the other one finds it taken
            standing.pass_time(dispatcher_module.AWAY_S - LEASE_S + 1)
            assert standing.leads == [False, True]
        finally:
            broken.stop(LIMIT_S)
