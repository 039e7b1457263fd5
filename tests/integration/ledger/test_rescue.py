"""Rescue: what dead workers and lost messages leave behind; and who leads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection

from sendq import Send, State
from sendq.clock import SECOND, Micros, moment
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed, Group
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue, workers
from sendq.ledger.dispatching.lanes import lock_changes
from sendq.rules.lane_change import LaneChange
from sendq.rules.preflight import DEATHS_TOLERATED, KEY_MAX_AGE
from sendq.rules.rule_ids import DIED
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, START, Ledger, end, outcome
from tests.support.waiting import LIMIT_S

FIRST_LANE = UUID(int=0)


def register(ledger: Ledger, worker: UUID | None = None, *, stale_after: Micros = 8 * SECOND) -> None:
    with ledger.writing() as connection:
        workers.register(
            connection,
            worker or ledger.worker,
            name="w",
            pid=1,
            version="0",
            load=workers.Load(capacity=50),
            now=ledger.clock(),
            stale_after=stale_after,
        )


def bury(ledger: Ledger, worker: UUID | None = None) -> rescue.Buried:
    with ledger.writing() as connection:
        return rescue.bury(connection, worker or ledger.worker, now=ledger.clock())


def served(ledger: Ledger, jobs: int = 5, ramp: int = 2) -> Claimed:
    """A turn with some jobs, the first of them begun."""
    ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(jobs)])
    ledger.clock.advance(1)
    ledger.absorb()
    ledger.set_lane(ramp=ramp)
    return ledger.serve()


class TestBuryingAWorker:
    def test_returns_only_its_begun_jobs_as_perhaps_sent(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        untouched = {job.id: ledger.job(job.id) for job in claimed.jobs[2:]}
        begun_at = ledger.clock()
        ledger.clock.advance(8)
        assert bury(ledger) == rescue.Buried(turns=1, begun=2)
        for job in claimed.jobs[:2]:
            row = ledger.job(job.id)
            assert (row.state, row.deaths, row.attempts) == ("queued", 1, 0)
            assert (row.generation, row.key_at, row.doubt_at) == (0, begun_at, begun_at)
            assert (row.next_at, row.turn, row.begun_at, row.rule) == (ledger.clock(), None, None, DIED)
            (attempt,) = ledger.queue.job(str(job.id)).trail
            assert (attempt.sent, attempt.status, attempt.rule) == ("maybe", None, DIED)
        assert {job_id: ledger.job(job_id) for job_id in untouched} == untouched

    def test_makes_no_job_poison_however_many_died(self, ledger: Ledger) -> None:
        job = ledger.send()
        for death in range(4):
            claimed = ledger.serve(worker=new_id())
            assert bury(ledger, claimed.worker).begun == 1
            assert ledger.job(job).deaths == min(death + 1, DEATHS_TOLERATED)
        assert ledger.state(job) is State.QUEUED

    def test_frees_its_lanes(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        bury(ledger)
        lane = ledger.lane()
        assert (lane.turn, lane.turn_worker, lane.turn_slots, lane.fence) == (None, None, 0, claimed.lane.fence)
        again = ledger.serve(worker=new_id())
        assert {job.id for job in again.jobs} == {job.id for job in claimed.jobs}

    def test_leaves_other_workers_alone(self, ledger: Ledger) -> None:
        served(ledger)
        ledger.send("g2")
        other = new_id()
        theirs = ledger.serve(worker=other)
        bury(ledger)
        assert ledger.lane("g2").turn_worker == other
        assert ledger.state(theirs.jobs[0].id) is State.SENDING

    def test_leaves_what_it_had_recorded(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"))
        assert bury(ledger).begun == 1
        assert ledger.state(claimed.jobs[0].id) is State.SENT

    def test_leaves_a_send_whose_key_is_too_old_in_doubt(self, ledger: Ledger) -> None:
        claimed = served(ledger, 1)
        ledger.set_job(claimed.jobs[0].id, key_at=ledger.clock() - KEY_MAX_AGE)
        bury(ledger)
        assert ledger.state(claimed.jobs[0].id) is State.IN_DOUBT

    def test_returns_a_modification_however_old(self, ledger: Ledger) -> None:
        (job,) = ledger.modify("g1", ["m1"])
        ledger.serve()
        ledger.set_job(job, key_at=ledger.clock() - KEY_MAX_AGE)
        bury(ledger)
        assert ledger.state(job) is State.QUEUED

    def test_hides_no_job_behind_a_later_one_of_its_priority(self, ledger: Ledger) -> None:
        """Begun jobs of several priorities, each with another one that is due tomorrow."""
        tomorrow = moment(ledger.clock()) + timedelta(days=1)
        for priority in ("high", "normal", "low"):
            ledger.send(priority=priority)
            ledger.send(priority=priority, due_at=tomorrow)
        ledger.absorb()
        ledger.set_lane(ramp=3)
        claimed = ledger.serve()
        assert len(claimed.begun) == 3
        # What a worker records in the middle of its turn moves the floors on, to the jobs of tomorrow.
        floor = START + SECOND
        ledger.set_lane(high_floor=floor, normal_floor=floor, low_floor=floor)
        bury(ledger)
        assert {job.id for job in ledger.serve(worker=new_id()).jobs} == claimed.begun

    def test_twice_changes_nothing_more(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        bury(ledger)
        assert bury(ledger) == rescue.Buried(0, 0)
        assert ledger.job(claimed.jobs[0].id).deaths == 1

    def test_by_two_at_once_counts_one_death(self, pg_ledger: Ledger) -> None:
        claimed = served(pg_ledger)
        barrier = threading.Barrier(2)
        found = []

        def rescuer() -> None:
            barrier.wait(LIMIT_S)
            found.append(bury(pg_ledger))

        threads = [threading.Thread(target=rescuer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert sorted(one.begun for one in found) == [0, 2]
        assert [pg_ledger.job(job.id).deaths for job in claimed.jobs] == [1, 1, 0, 0, 0]

    def test_takes_its_row_away_and_it_learns_so_from_its_next_beat(self, ledger: Ledger) -> None:
        register(ledger)
        load = workers.Load(capacity=10)
        with ledger.writing() as connection:
            assert workers.beat(connection, ledger.worker, load=load, now=ledger.clock())
            assert workers.beats(connection) == {ledger.worker: workers.Beats(count=1, silent=0)}
        bury(ledger)
        with ledger.writing() as connection:
            assert not workers.beat(connection, ledger.worker, load=load, now=ledger.clock())
            assert workers.beats(connection) == {}


class TestWhatIsTakenBack:
    """Wakes the dispatcher, which would not look for a second."""

    @pytest.fixture
    def rung(self, pg_ledger: Ledger) -> Iterator[Callable[[], int]]:
        """How often somebody who listens was rung since he was asked last."""
        arguments, options = pg_ledger.engine.dialect.create_connect_args(pg_ledger.engine.url)
        with psycopg.connect(*arguments, **options, autocommit=True) as listening:
            listening.execute("LISTEN sendq_wake")
            yield lambda: len(list(listening.notifies(timeout=0.05)))

    def fall_asleep(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            connection.execute(schema.leader.update().values(sleeps_until=ledger.clock() + 3_600 * SECOND))

    def test_of_a_dead_worker_does(self, pg_ledger: Ledger, rung: Callable[[], int]) -> None:
        register(pg_ledger)
        served(pg_ledger)
        self.fall_asleep(pg_ledger)
        bury(pg_ledger)
        assert rung() == 1

    def test_of_a_turn_that_is_over_does(self, pg_ledger: Ledger, rung: Callable[[], int]) -> None:
        pg_ledger.send()
        (claimed,) = pg_ledger.claim(pg_ledger.offer())
        pg_ledger.record_group(Group(ends=[end(claimed)]))
        now = pg_ledger.clock.advance(120)
        self.fall_asleep(pg_ledger)
        with pg_ledger.writing() as connection:
            assert rescue.take_back_orphans(connection, begun_before=now, now=now) == 1
        assert rung() == 1

    def test_by_the_sweep_does(self, pg_ledger: Ledger, rung: Callable[[], int]) -> None:
        pg_ledger.send("g1")
        pg_ledger.absorb()
        pg_ledger.set_lane("g1", next_at=None)
        self.fall_asleep(pg_ledger)
        with pg_ledger.writing() as connection:
            rescue.sweep(connection, after=FIRST_LANE, limit=10, now=pg_ledger.clock())
        assert rung() == 1

    def test_when_it_is_nothing_does_not(self, pg_ledger: Ledger, rung: Callable[[], int]) -> None:
        pg_ledger.send("g1")
        pg_ledger.absorb()
        self.fall_asleep(pg_ledger)
        with pg_ledger.writing() as connection:
            rescue.sweep(connection, after=FIRST_LANE, limit=10, now=pg_ledger.clock())
        assert rung() == 0


class TestTurnsThatNobodyClaims:
    def take_back(self, ledger: Ledger) -> int:
        with ledger.writing() as connection:
            before = ledger.clock() - 10 * SECOND
            return rescue.take_back_unclaimed(connection, offered_before=before, now=ledger.clock())

    def test_are_taken_back_after_their_time(self, ledger: Ledger) -> None:
        job = ledger.send()
        before = ledger.job(job)
        stale = ledger.offer()
        ledger.clock.advance(10)
        assert self.take_back(ledger) == 0
        ledger.clock.advance(1)
        assert self.take_back(ledger) == 1
        assert ledger.job(job) == before
        assert ledger.claim(stale) == []
        assert [found.id for found in ledger.serve().jobs] == [job]

    def test_are_no_longer_those_that_a_living_worker_claimed(self, ledger: Ledger) -> None:
        register(ledger)
        served(ledger)
        ledger.clock.advance(3_600)
        assert self.take_back(ledger) == 0
        assert ledger.lane().turn == "claimed"

    def test_are_those_too_that_a_worker_claimed_after_its_burial(self, ledger: Ledger) -> None:
        """It was frozen, woke up, claimed a message before its next beat, and then died for good."""
        claimed = served(ledger)
        ledger.clock.advance(11)
        assert self.take_back(ledger) == 1
        assert ledger.lane().turn is None
        job = ledger.job(claimed.jobs[0].id)
        assert (job.state, job.doubt_at) == (State.QUEUED, claimed.lane.turn_at)
        assert job.deaths == 0  # it may live, under another name: nobody is to be blamed for a death
        assert len(ledger.serve(worker=new_id()).jobs) == 5

    def test_leave_a_send_in_doubt_whose_key_is_older_than_the_setting_allows(self, ledger: Ledger) -> None:
        claimed = served(ledger)
        ledger.clock.advance(11)
        with ledger.writing() as connection:
            now = ledger.clock()
            rescue.take_back_unclaimed(connection, offered_before=now - SECOND, now=now, key_max_age=10 * SECOND)
        assert ledger.state(claimed.jobs[0].id) is State.IN_DOUBT


class TestExpiring:
    def expire(self, ledger: Ledger, limit: int = 100) -> int:
        with ledger.writing() as connection:
            return rescue.expire(connection, now=ledger.clock(), limit=limit)

    def test_ends_jobs_whose_time_is_over_in_closed_lanes_too(self, ledger: Ledger) -> None:
        closing = ledger.send("g1")
        claimed = ledger.serve()
        hold = Hold(Scope.GRANT, "grant_expired", "policy", None)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        waiting = ledger.send("g2")
        ledger.clock.advance(72 * 3_600 - 1)
        assert self.expire(ledger) == 0
        ledger.clock.advance(1)
        assert self.expire(ledger) == 2
        assert ledger.state(closing) is ledger.state(waiting) is State.EXPIRED

    def test_leaves_one_in_doubt_that_may_have_gone_out(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        ledger.clock.advance(72 * 3_600)
        assert self.expire(ledger) == 1
        assert ledger.state(job) is State.IN_DOUBT

    def test_leaves_one_that_is_on_the_wire(self, ledger: Ledger) -> None:
        served(ledger, 1)
        ledger.clock.advance(100 * 3_600)
        assert self.expire(ledger) == 0

    def test_goes_on_step_by_step(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(5)])
        ledger.clock.advance(73 * 3_600)
        assert [self.expire(ledger, limit=2) for _ in range(4)] == [2, 2, 1, 0]


class TestTheSweep:
    def sweep(self, ledger: Ledger, *, limit: int = 100) -> int:
        after: UUID | None = FIRST_LANE
        asleep = 0
        while after is not None:
            with ledger.writing() as connection:
                after, found = rescue.sweep(connection, after=after, limit=limit, now=ledger.clock())
            asleep += found
        return asleep

    @pytest.mark.parametrize("limit", [1, 2, 100])
    def test_wakes_every_lane_that_sleeps_over_waiting_jobs(self, ledger: Ledger, limit: int) -> None:
        jobs = {f"g{n}": ledger.send(f"g{n}") for n in range(5)}
        ledger.absorb()
        floor = ledger.clock() + 3_600 * SECOND
        for grant in ("g1", "g3"):
            ledger.set_lane(grant, next_at=None, normal_floor=floor)
        assert self.sweep(ledger, limit=limit) == 2
        claimed = ledger.claim(ledger.offer())
        assert {job.id for turn in claimed for job in turn.jobs} == set(jobs.values())
        assert self.sweep(ledger, limit=limit) == 0

    def test_lets_closed_and_served_lanes_be(self, ledger: Ledger) -> None:
        for grant in ("g1", "g2"):
            ledger.send(grant)
        ledger.absorb()
        ledger.set_lane("g1", next_at=None, closed_at=ledger.clock())
        ledger.set_lane("g2", next_at=None, turn="claimed")
        assert self.sweep(ledger) == 0
        assert ledger.lane("g1").next_at is None

    def test_lets_lanes_be_that_nobody_took_in_yet(self, ledger: Ledger) -> None:
        ledger.send()
        assert self.sweep(ledger) == 0
        assert ledger.rows(schema.lane) == []

    def test_calls_no_lane_asleep_whose_new_jobs_are_still_to_be_taken_in(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.finish(ledger.serve())
        ledger.send()
        assert ledger.lane().next_at is None
        assert self.sweep(ledger) == 0

    def test_does_not_count_a_lane_that_was_served_before_its_lock_was_had(
        self, pg_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pg_ledger.send()
        pg_ledger.absorb()

        def lock_later(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, LaneChange]:
            monkeypatch.undo()
            pg_ledger.finish(pg_ledger.serve())
            return lock_changes(connection, ids)

        monkeypatch.setattr(rescue, "lock_changes", lock_later)
        assert self.sweep(pg_ledger) == 0

    def test_of_an_empty_ledger_finds_nothing(self, ledger: Ledger) -> None:
        assert self.sweep(ledger) == 0


class TestAnOrphan:
    def test_of_a_turn_that_is_over_returns_with_its_key(self, ledger: Ledger) -> None:
        job = ledger.send()
        (claimed,) = ledger.claim(ledger.offer())
        ledger.record_group(Group(ends=[end(claimed)]))
        now = ledger.clock.advance(120)
        with ledger.writing() as connection:
            assert rescue.take_back_orphans(connection, begun_before=now - 60 * SECOND, now=now) == 1
        row = ledger.job(job)
        assert (row.state, row.generation, row.deaths) == ("queued", 0, 0)
        assert row.doubt_at is not None
        assert ledger.due() == [row.lane_id]

    def test_is_none_while_its_turn_is_open(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.claim(ledger.offer())
        now = ledger.clock.advance(120)
        with ledger.writing() as connection:
            assert rescue.take_back_orphans(connection, begun_before=now, now=now) == 0
