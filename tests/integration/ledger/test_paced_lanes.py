"""What the ledger keeps of a lane's pace, and what it makes of it: for turns, predictions and admission."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from sendq import LaneFull, SendQueue
from sendq.clock import SECOND, Micros, moment
from sendq.facts.turns import Group, Shrink
from sendq.ledger import grants
from sendq.ledger.dispatching import rescue, workers
from sendq.ledger.dispatching.lane_paces import apply_paces
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.rules.pace import BEHAVES_AFTER, PACES, STRETCH_FIRST, pacer_of, read
from sendq.rules.paces import PaceRule, Paces, Window
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, START, Ledger, end, outcome

FIRST = UUID(int=0)


class TestAClaim:
    def test_begins_no_more_than_the_pace_lets_start_soon(self, ledger: Ledger) -> None:
        jobs = [ledger.send(provider="microsoft") for _ in range(5)]
        ledger.widen()
        claimed = ledger.serve()
        assert claimed.begun == {jobs[0]}  # 30 a minute: the second starts in more than a second
        assert claimed.starts == {jobs[0]: ledger.clock()}

    def test_charges_the_lane_for_what_it_begins(self, ledger: Ledger) -> None:
        ledger.send(provider="google")
        claimed = ledger.serve()
        assert ledger.lane().used == claimed.pacer.text

    def test_holds_no_more_slots_than_its_pace_needs(self, ledger: Ledger) -> None:
        for _ in range(5):
            ledger.send(provider="google")
        ledger.widen()
        ledger.set_lane(stretch=10 * SECOND)
        assert ledger.serve().slots == ledger.lane().turn_slots == 1

    def test_is_charged_in_full_if_its_worker_dies(self, ledger: Ledger) -> None:
        ledger.send(provider="ews")
        ledger.serve()
        with ledger.writing() as connection:
            rescue.bury(connection, ledger.worker, now=ledger.clock())
        assert pacer_of(ledger.lane(), now=ledger.clock()).start("send", ledger.clock()) > ledger.clock()


class TestATurn:
    def test_leaves_the_pace_as_it_was_used(self, ledger: Ledger) -> None:
        ledger.send(provider="google")
        claimed = ledger.serve()
        claimed.pacer.take("send", ledger.clock())
        job = claimed.jobs[0]
        ledger.record(outcome(claimed, job, Event.ACCEPT, sent="yes"), ends=[ended(claimed)])
        assert ledger.lane().used == claimed.pacer.text

    def test_gives_back_slots_while_it_waits_for_slow_calls(self, ledger: Ledger) -> None:
        for _ in range(4):
            ledger.send(provider="imap")
        claimed = ledger.serve()
        ledger.record_group(Group(shrinks=[Shrink(claimed.lane.id, claimed.lane.fence, claimed.worker, 0)]))
        assert (ledger.lane().turn, ledger.lane().turn_slots) == ("claimed", 0)

    def test_gives_nothing_back_once_it_is_over(self, ledger: Ledger) -> None:
        ledger.send()
        claimed = ledger.serve()
        ledger.finish(claimed)
        ledger.send()
        again = ledger.serve()
        ledger.record_group(Group(shrinks=[Shrink(claimed.lane.id, claimed.lane.fence, claimed.worker, 0)]))
        assert ledger.lane().turn_slots == again.slots


class TestAThrottle:
    def test_stretches_the_pace_where_nobody_knows_the_limit(self, ledger: Ledger) -> None:
        ledger.send(provider="imap")
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, throttled=True), ends=[end(claimed)])
        assert ledger.lane().stretch == STRETCH_FIRST

    def test_is_forgotten_little_by_little_when_calls_succeed(self, ledger: Ledger) -> None:
        ledger.send(provider="imap")
        ledger.absorb()
        ledger.set_lane(stretch=2 * SECOND)
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[ended(claimed, successes=1)])
        assert 0 < ledger.lane().stretch < 2 * SECOND

    def test_keeps_modifications_apart_until_the_grant_has_behaved(self, ledger: Ledger) -> None:
        ledger.modify("g1", ["m1"], provider="google")
        claimed = ledger.serve()
        spaced = outcome(claimed, claimed.jobs[0], Event.RETURN, spacing=SECOND)
        ledger.record(spaced, ends=[end(claimed)])
        assert ledger.lane().spacing_until == ledger.clock() + BEHAVES_AFTER
        assert pacer_of(ledger.lane(), now=ledger.clock()).spacing == SECOND
        assert pacer_of(ledger.lane(), now=ledger.clock() + BEHAVES_AFTER).spacing == 0


class TestASettingThatChanged:
    def test_reaches_the_lanes_that_are_there(self, ledger: Ledger) -> None:
        for grant, provider in (("g1", "google"), ("g2", "google"), ("g3", "ews")):
            ledger.send(grant, provider=provider)
        ledger.absorb()
        said = Paces([PaceRule(provider="google", width=3), PaceRule(grant="g2", limits={"minute": Window(15_000)})])
        assert self.keep(ledger, said) == 2
        assert [ledger.lane(grant).width for grant in ("g1", "g2", "g3")] == [3, 3, 1]
        limits = read(ledger.lane("g2").pace, "google").limits
        assert {limit.name: limit.units for limit in limits}["minute"] == 15_000
        assert self.keep(ledger, said) == 0

    def test_may_be_taken_back(self, ledger: Ledger) -> None:
        ledger.send(provider="google")
        ledger.absorb()
        self.keep(ledger, Paces([PaceRule(grant="g1", width=1)]))
        assert self.keep(ledger, Paces()) == 1
        assert (ledger.lane().pace, ledger.lane().width) == (None, PACES["google"].width)

    def keep(self, ledger: Ledger, paces: Paces) -> int:
        after: UUID | None = FIRST
        changed = 0
        while after is not None:
            with ledger.writing() as connection:
                after, more = apply_paces(connection, paces, after=after, limit=2)
            changed += more
        return changed


class TestAProvider:
    def test_is_that_of_the_application_if_nobody_named_it(self, ledger: Ledger) -> None:
        ledger.send()
        with ledger.writing() as connection:
            found = take_wakes(connection, limit=10)
            wake_lanes(connection, found, now=ledger.clock(), paces=Paces(providers={"default": "microsoft"}))
        assert ledger.lane().provider == "microsoft"

    def test_that_is_unknown_is_asked_for_once_and_again_only_without_an_answer(self, ledger: Ledger) -> None:
        ledger.send("g1")
        ledger.send("g2", provider="ews")
        ledger.absorb()
        assert self.to_ask(ledger) == ["g1"]
        assert self.to_ask(ledger) == []
        ledger.clock.advance(600)
        assert self.to_ask(ledger) == ["g1"]
        self.found(ledger, "google")
        ledger.clock.advance(600)
        assert self.to_ask(ledger) == []
        assert (ledger.lane().provider, ledger.lane().width) == ("google", PACES["google"].width)

    def test_that_the_api_does_not_know_either_is_not_asked_for_again(self, ledger: Ledger) -> None:
        ledger.send("g1")
        ledger.absorb()
        self.found(ledger, "unknown")
        assert self.to_ask(ledger) == []

    def found(self, ledger: Ledger, provider: str) -> None:
        lane = ledger.lane().id
        with ledger.writing() as connection:
            grants.found_provider(connection, lane, provider, paces=Paces(), now=ledger.clock())

    def to_ask(self, ledger: Ledger) -> list[str]:
        with ledger.writing() as connection:
            return [check.grant_id for check in grants.to_ask(connection, now=ledger.clock(), limit=10)]


class TestAPrediction:
    def test_is_now_for_a_grant_without_jobs(self, ledger: Ledger) -> None:
        eta = ledger.queue.eta("nobody")
        assert (eta.at, eta.ahead) == (moment(START), 0)

    def test_goes_by_the_lanes_own_pace(self, ledger: Ledger) -> None:
        for _ in range(60):
            ledger.send(provider="microsoft")
        ledger.absorb()
        eta = ledger.queue.eta("g1")
        assert eta.ahead == 60
        assert eta.at is not None
        assert 110 <= (eta.at - moment(START)).total_seconds() <= 135  # 30 a minute

    def test_counts_only_those_that_go_before(self, ledger: Ledger) -> None:
        for _ in range(60):
            ledger.send(provider="microsoft", priority="low")
        ledger.absorb()
        assert ledger.queue.eta("g1").ahead == 0

    def test_waits_for_the_end_of_a_hold(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        ledger.set_lane(held_until=START + 300 * SECOND)
        eta = ledger.queue.eta("g1")
        assert eta.at is not None
        assert eta.at >= moment(START + 300 * SECOND)

    def test_is_none_while_the_owner_must_sign_in(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        ledger.set_lane(closed_at=START)
        assert ledger.queue.eta("g1").at is None

    def test_is_part_of_why(self, ledger: Ledger) -> None:
        ids = [ledger.send(provider="microsoft") for _ in range(31)]
        ledger.absorb()
        ledger.set_lane(ready_at=START + SECOND)
        with ledger.writing() as connection:
            self.alive(connection, ledger)
        why = ledger.queue.why(str(ids[-1]))
        assert why.reason == "pace"
        assert "30 per 60 s" in why.says
        assert why.eta is not None
        assert why.eta > moment(START + 50 * SECOND)

    def alive(self, connection: Any, ledger: Ledger) -> None:
        """A worker, which leads."""
        load = workers.Load(capacity=1)
        workers.register(connection, ledger.worker, name="w", pid=1, version="0", load=load, now=START)
        assert workers.lead(connection, ledger.worker, now=START, lease=60 * SECOND)


class TestACapOnWaitingJobs:
    def queue(self, ledger: Ledger) -> SendQueue:
        return SendQueue(ledger.engine, lane_cap=3, now=ledger.clock)

    def test_lets_in_as_many_as_may_wait(self, ledger: Ledger) -> None:
        for _ in range(3):
            self.queue(ledger).send("g1", MESSAGE)

    def test_refuses_the_next_and_says_when_it_would_go(self, ledger: Ledger) -> None:
        for _ in range(3):
            self.queue(ledger).send("g1", MESSAGE)
        with pytest.raises(LaneFull) as refused:
            self.queue(ledger).send("g1", MESSAGE)
        assert (refused.value.grant_id, refused.value.cap) == ("g1", 3)
        assert refused.value.eta is not None
        assert ledger.queue.eta("g1").ahead == 3

    def test_refuses_a_batch_as_a_whole(self, ledger: Ledger) -> None:
        with pytest.raises(LaneFull):
            self.queue(ledger).modify("g1", ["m1", "m2", "m3", "m4"], unread=True)
        assert ledger.queue.eta("g1").ahead == 0

    def test_stores_nothing_for_a_caller_who_commits_all_the_same(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            for _ in range(3):
                self.queue(ledger).send("g1", MESSAGE, session=connection)
            with pytest.raises(LaneFull):
                self.queue(ledger).send("g1", MESSAGE, session=connection)
        assert ledger.queue.eta("g1").ahead == 3

    def test_does_not_concern_other_grants(self, ledger: Ledger) -> None:
        for _ in range(3):
            self.queue(ledger).send("g1", MESSAGE)
        self.queue(ledger).send("g2", MESSAGE)

    def test_gives_back_the_job_that_a_key_names(self, ledger: Ledger) -> None:
        first = self.queue(ledger).send("g1", MESSAGE, key="k")
        for _ in range(2):
            self.queue(ledger).send("g1", MESSAGE)
        assert self.queue(ledger).send("g1", MESSAGE, key="k").id == first.id


def ended(claimed: Any, *, successes: int = 0, ready_at: Micros = 0) -> Any:
    """The end of a turn as a worker tells it."""
    return replace(end(claimed, ready_at=ready_at), used=claimed.pacer.text, successes=successes)
