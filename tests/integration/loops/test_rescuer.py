"""The rescuer: who watches whom, and what is brought back when."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import exc

from sendq import State
from sendq.clock import SECOND, moment
from sendq.facts.turns import Claimed
from sendq.ledger.db import schema
from sendq.ledger.dispatching import rescue, workers
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.rules.states import Event
from tests.integration.ledger.test_rescue import register, served
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger, end, outcome
from worker.leading.rescuer import Rescuer

LEADER = UUID(int=1)


def rescuer(
    ledger: Ledger, *, serves: bool = True, trusted: int = KEY_MAX_AGE, leads: bool = True, ahead_s: int = 0
) -> Rescuer:
    return Rescuer(
        ledger.engine,
        FixedLeadership(leads=leads, serves=serves),
        now=lambda: ledger.clock() + ahead_s * SECOND,
        unclaimed_after_s=10,
        later_s=2,
        key_max_age=lambda: trusted,
        monotonic=lambda: ledger.clock() / SECOND,
    )


def lead(ledger: Ledger) -> None:
    """Somebody leads, or renews the lead."""
    with ledger.writing() as connection:
        assert workers.lead(connection, LEADER, now=ledger.clock(), lease=5 * SECOND)


def beat(ledger: Ledger) -> None:
    with ledger.writing() as connection:
        assert workers.beat(connection, ledger.worker, load=workers.Load(capacity=50), now=ledger.clock())


class TestTheRescuer:
    def test_does_its_other_steps_though_one_of_them_fails(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ledger.send(expires_at=moment(ledger.clock() + SECOND))
        ledger.clock.advance(2)

        def broken(*_: object, **__: object) -> int:
            raise exc.DataError("a row that this step cannot bear", None, Exception())

        monkeypatch.setattr(rescue, "take_back_unclaimed", broken)
        monkeypatch.setattr(rescue, "sweep", broken)
        with pytest.raises(exc.DataError):  # told all the same: it may be the ledger that is away
            rescuer(ledger).run_once()
        assert ledger.state(job) is State.EXPIRED

    def test_lets_nothing_expire_in_a_ledger_that_has_forgotten_what_went_out(self, ledger: Ledger) -> None:
        job = ledger.send(expires_at=moment(ledger.clock() + SECOND))
        ledger.clock.advance(2)
        rescuer(ledger, serves=False).run_once()
        assert ledger.state(job) is State.QUEUED
        rescuer(ledger).run_once()
        assert ledger.state(job) is State.EXPIRED

    def test_gives_up_what_was_not_approved_in_time(self, ledger: Ledger) -> None:
        """Also of an account whose lane gets no turn, and before the expiry of the same time would end it."""
        job = ledger.send(needs_approval=True, expires_at=moment(ledger.clock() + SECOND))
        deletion = ledger.queue.delete("g1", ["m1"], needs_approval=True).id
        ledger.clock.advance(2)
        rescuer(ledger, serves=False).run_once()
        assert ledger.state(job) is State.QUEUED
        rescuer(ledger).run_once()
        assert (ledger.state(job), ledger.job(job).rule) == (State.DEAD, "not_approved")
        assert ledger.queue.batch(deletion).unapproved == 1
        ledger.clock.advance(72 * 3_600)
        rescuer(ledger).run_once()
        assert ledger.queue.batch(deletion).counts == {State.DEAD: 1}


class TestWatching:
    """Who is silent is buried, whoever dies meanwhile of those who watch; who speaks is not."""

    @pytest.fixture
    def silent(self, ledger: Ledger) -> Claimed:
        """A turn of a worker that says no more."""
        register(ledger)
        return served(ledger)

    def watch(self, ledger: Ledger, one: Rescuer, seconds: int) -> int:
        """Once a second; the second in which the worker was buried, or 0."""
        for second in range(1, seconds + 1):
            one.run_once()
            if ledger.lane().turn is None:
                return second
            ledger.clock.advance(1)
        return 0

    @pytest.mark.parametrize(("leads", "looks"), [(True, 9), (False, 11)])
    def test_leaves_the_first_word_to_the_leader(
        self, ledger: Ledger, silent: Claimed, leads: bool, looks: int
    ) -> None:
        assert self.watch(ledger, rescuer(ledger, leads=leads), 20) == looks

    @pytest.mark.parametrize(("patience_s", "looks"), [(2, 3), (30, 31)])
    def test_gives_each_worker_the_time_that_it_named(self, ledger: Ledger, patience_s: int, looks: int) -> None:
        register(ledger, stale_after=patience_s * SECOND)
        served(ledger)
        assert self.watch(ledger, rescuer(ledger), 40) == looks

    def test_goes_on_where_the_last_one_died(self, ledger: Ledger, silent: Claimed) -> None:
        """Each of them lives for five seconds, and none comes to lead."""
        seconds = 0
        for _ in range(4):
            seconds += 5
            if buried := self.watch(ledger, rescuer(ledger, leads=False), 5):
                break
        assert buried
        assert seconds - 5 + buried <= 16

    def test_begins_anew_with_a_beat(self, ledger: Ledger, silent: Claimed) -> None:
        for _ in range(4):
            assert not self.watch(ledger, rescuer(ledger), 8)  # the last look is seven seconds after the first
            beat(ledger)

    def test_of_one_does_not_count_for_another_that_saw_a_beat(self, ledger: Ledger, silent: Claimed) -> None:
        behind = rescuer(ledger)
        assert not self.watch(ledger, behind, 6)
        beat(ledger)
        with ledger.writing() as connection:  # told by somebody who has not seen that beat
            workers.record_silence(connection, ledger.worker, workers.Beats(count=0, silent=6 * SECOND))
        assert not self.watch(ledger, rescuer(ledger), 8)

    def test_writes_nothing_while_everybody_speaks(self, ledger: Ledger, silent: Claimed) -> None:
        one = rescuer(ledger)
        for _ in range(5):
            self.watch(ledger, one, 3)
            (row,) = ledger.rows(schema.worker)
            assert row.silent == 0
            beat(ledger)

    def test_counts_no_time_without_the_ledger(self, ledger: Ledger, silent: Claimed) -> None:
        one = rescuer(ledger)
        assert not self.watch(ledger, one, 6)
        one.ledger_unavailable()
        ledger.clock.advance(60)
        assert self.watch(ledger, one, 8) == 4

    def test_does_not_count_the_time_in_which_it_was_frozen_itself(self, ledger: Ledger, silent: Claimed) -> None:
        """A machine that was suspended for a minute wakes: nobody on it has had a chance to beat."""
        one = rescuer(ledger)
        assert not self.watch(ledger, one, 3)
        ledger.clock.advance(60)
        assert not self.watch(ledger, one, 2)
        beat(ledger)
        assert not self.watch(ledger, one, 7)


class TestATurnThatNobodyClaims:
    """Its age is told by the leaders' clocks."""

    @pytest.fixture
    def offered(self, ledger: Ledger) -> None:
        register(ledger)
        lead(ledger)
        ledger.send()
        ledger.offer()

    def seconds(self, ledger: Ledger, one: Rescuer, *, dies_after: int = 30) -> int:
        """Until it is taken back, with a leader that renews its lead every second until it dies."""
        for second in range(30):
            one.run_once()
            if ledger.lane().turn is None:
                return second
            ledger.clock.advance(1)
            beat(ledger)
            if second < dies_after:
                lead(ledger)
        return 30

    @pytest.mark.parametrize(("leads", "seconds"), [(True, 11), (False, 13)])
    @pytest.mark.usefixtures("offered")
    def test_is_taken_back_by_the_leader_or_by_another(self, ledger: Ledger, leads: bool, seconds: int) -> None:
        assert self.seconds(ledger, rescuer(ledger, leads=leads)) == seconds

    @pytest.mark.usefixtures("offered")
    def test_is_taken_back_as_soon_though_the_leader_dies(self, ledger: Ledger) -> None:
        assert self.seconds(ledger, rescuer(ledger, leads=False), dies_after=2) == 13

    @pytest.mark.parametrize("ahead_s", [-3_600, 3_600])
    @pytest.mark.usefixtures("offered")
    def test_waits_as_long_for_one_whose_clock_is_wrong(self, ledger: Ledger, ahead_s: int) -> None:
        assert self.seconds(ledger, rescuer(ledger, leads=False, ahead_s=ahead_s)) == 13


class TestAClockThatRunsBehind:
    def test_leaves_no_open_key_waiting_till_it_looks_young_again(self, ledger: Ledger) -> None:
        jobs = []
        for sent in ("maybe", "no"):
            jobs.append(ledger.send(f"grant-{sent}"))
            claimed = ledger.serve()
            later = ledger.clock() + 3_600 * SECOND
            known = outcome(claimed, claimed.jobs[0], Event.RETURN, sent=sent, next_at=later)
            ledger.record(known, ends=[end(claimed)])
        jobs.append(ledger.send("grant"))
        rescuer(ledger).run_once()
        assert {ledger.state(job) for job in jobs} == {State.QUEUED}
        rescuer(ledger, trusted=0).run_once()
        assert [ledger.state(job) for job in jobs] == [State.IN_DOUBT, State.QUEUED, State.QUEUED]

    def test_leaves_changes_waiting_which_can_be_made_twice(self, ledger: Ledger) -> None:
        ledger.queue.modify("g1", ["m1"], starred=True)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, sent="maybe"), ends=[end(claimed)])
        rescuer(ledger, trusted=0).run_once()
        assert ledger.state(claimed.jobs[0].id) is State.QUEUED
