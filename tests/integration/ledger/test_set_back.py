"""A clock that was minutes ahead and has been set back: nothing waits until real time has caught up."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select

from sendq import State
from sendq.clock import SECOND, Micros, moment
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import End
from sendq.ids import lane_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.dispatching import set_back
from sendq.ledger.dispatching.budgets import announce
from sendq.ledger.dispatching.pairs import hold_by_hand
from sendq.ledger.operators.holds import hold_grant
from sendq.operators import Operators
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.states import Event
from tests.integration.ledger.test_budgets import begin_all
from tests.support.ledger import Ledger, end, outcome

MINUTE: Micros = 60 * SECOND
AHEAD_S = 300.0
FIRST = UUID(int=0)


def bring_back(ledger: Ledger) -> tuple[int, int]:
    """Set the clock back, and bring back what it wrote, in steps of one lane; returns how many lanes and jobs."""
    now, lanes, jobs = ledger.clock(), 0, 0
    after: UUID | None = FIRST
    while after is not None:
        with ledger.writing() as connection:
            done = set_back.lanes_step(connection, after=after, limit=1, now=now)
        after, lanes, jobs = done.after, lanes + done.lanes, jobs + done.jobs
    with ledger.writing() as connection:
        set_back.pairs_step(connection, now=now)
        set_back.deliveries_step(connection, now=now)
    return lanes, jobs


def due(ledger: Ledger) -> set[UUID]:
    return {turn.lane_id for turn in ledger.offer()}


def pairs(ledger: Ledger) -> dict[str, Any]:
    return {row.provider: row for row in ledger.rows(schema.pair)}


class TestALane:
    def test_that_was_served_goes_on_at_its_pace(self, ledger: Ledger) -> None:
        for _ in range(3):
            ledger.send(provider="google")
        ledger.clock.advance(AHEAD_S)
        claimed = ledger.serve()
        sent = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        used, ready_at = claimed.pacer.text, claimed.pacer.start("send", ledger.clock())
        last = End(claimed.lane.id, claimed.lane.fence, claimed.worker, ready_at + 2 * SECOND, 1, used)
        ledger.record(sent, ends=[last])
        ledger.clock.advance(10 - AHEAD_S)
        assert due(ledger) == set()
        assert bring_back(ledger) == (1, 0)
        ledger.clock.advance(15)
        assert due(ledger) == {lane_id("default", "g1")}

    def test_that_was_only_woken_goes_now(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.clock.advance(AHEAD_S)
        ledger.absorb()
        ledger.clock.advance(-AHEAD_S)
        assert due(ledger) == set()
        bring_back(ledger)
        assert due(ledger) == {lane_id("default", "g1")}

    def test_that_was_held_is_held_for_as_long_as_was_meant(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.clock.advance(AHEAD_S)
        claimed = ledger.serve()
        hold = Hold(Scope.GRANT, "account_throttled", "policy", ledger.clock() + MINUTE)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        now = ledger.clock.advance(-AHEAD_S)
        bring_back(ledger)
        assert ledger.lane().held_until == now + MINUTE
        ledger.clock.advance(59)
        assert due(ledger) == set()
        ledger.clock.advance(2)
        assert due(ledger) == {lane_id("default", "g1")}

    def test_that_an_operator_holds_is_held_until_the_time_that_was_named(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        until = ledger.clock() + 60 * MINUTE
        ledger.clock.advance(AHEAD_S)
        with ledger.writing() as connection:
            hold_grant(connection, "default", "g1", until=until, by="anna", reason="x", now=ledger.clock())
        ledger.clock.advance(-AHEAD_S)
        bring_back(ledger)
        assert ledger.lane().held_until == until

    def test_that_was_closed_may_be_asked_about_and_closed_again(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.clock.advance(AHEAD_S)
        claimed = ledger.serve()
        refused = Hold(Scope.GRANT, "forbidden", "policy", None)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=refused), ends=[end(claimed)])
        ledger.set_lane(opened_at=ledger.clock(), check_at=ledger.clock() + 16 * MINUTE)
        now = ledger.clock.advance(-AHEAD_S)
        bring_back(ledger)
        lane = ledger.lane()
        assert (lane.closed_at, lane.opened_at, lane.check_at) == (now, now, now + 15 * MINUTE)

    def test_that_keeps_a_right_time_is_left_as_it_is(self, ledger: Ledger) -> None:
        ledger.send(provider="ews")
        claimed = ledger.serve()
        hold = Hold(Scope.GRANT, "exchange_throttled", "policy", ledger.clock() + 20 * MINUTE)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        before = ledger.lane()
        ledger.clock.advance(1)
        assert bring_back(ledger) == (0, 0)
        assert ledger.lane() == before

    def test_is_brought_back_once(self, ledger: Ledger) -> None:
        for grant in ("g1", "g2", "g3"):
            ledger.send(grant)
        ledger.clock.advance(AHEAD_S)
        for claimed in ledger.claim(ledger.offer()):
            later = ledger.clock() + 30 * MINUTE
            ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=later), ends=[end(claimed)])
        ledger.clock.advance(-AHEAD_S)
        assert bring_back(ledger) == (3, 3)
        before = ledger.rows(schema.lane), ledger.rows(schema.job)
        assert bring_back(ledger) == (0, 0)
        assert (ledger.rows(schema.lane), ledger.rows(schema.job)) == before


class TestAJob:
    def test_that_was_tried_is_tried_again_as_late_as_was_meant(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.clock.advance(AHEAD_S)
        claimed = ledger.serve()
        at = ledger.clock()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, next_at=at + MINUTE), ends=[end(claimed)])
        now = ledger.clock.advance(-AHEAD_S)
        assert bring_back(ledger) == (1, 1)
        assert ledger.job(job).next_at == now + MINUTE - 1  # the attempt ended a microsecond after it began
        ledger.clock.advance(60)
        assert due(ledger) == {lane_id("default", "g1")}

    def test_that_is_scheduled_stays_scheduled(self, ledger: Ledger) -> None:
        job = ledger.send()
        later = ledger.clock() + 60 * MINUTE
        ledger.set_job(job, next_at=later, due_at=later)
        assert bring_back(ledger) == (0, 0)
        assert (ledger.job(job).next_at, ledger.state(job)) == (later, State.QUEUED)


class TestAProvider:
    def test_is_held_for_as_long_as_was_meant(self, ledger: Ledger) -> None:
        ledger.send(provider="google")
        ledger.clock.advance(AHEAD_S)
        claimed = ledger.serve()
        hold = Hold(Scope.PROVIDER, "gmail_api_disabled", "policy", ledger.clock() + MINUTE)
        ledger.record(outcome(claimed, claimed.jobs[0], Event.RETURN, hold=hold), ends=[end(claimed)])
        with ledger.writing() as connection:
            until = ledger.clock() + 60 * MINUTE
            hold_by_hand(connection, "default", "ews", until=until, rule="by_hand", by="anna", now=ledger.clock())
        now = ledger.clock.advance(-AHEAD_S)
        bring_back(ledger)
        google = pairs(ledger)["google"]
        assert (google.held_since, google.held_until) == (now, now + MINUTE)


class TestADelivery:
    def test_is_tried_again_as_late_as_was_meant(self, ledger: Ledger) -> None:
        ledger.clock.advance(AHEAD_S)
        ledger.send(on_outcome="https://app.example.com/outcomes")
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed)])
        now = ledger.clock.advance(-AHEAD_S)
        bring_back(ledger)
        (delivery,) = ledger.rows(schema.delivery)
        assert (delivery.next_at, delivery.created_at) == (now, now)


class TestTheStatus:
    def test_says_that_the_clock_was_set_back(self, ledger: Ledger) -> None:
        operators = Operators(ledger.engine, now=ledger.clock)
        with ledger.writing() as connection:
            connection.execute(schema.leader.update().values(highest_at=ledger.clock() + 290 * SECOND))
            set_back.note(connection, behind=290 * SECOND, lanes=3, jobs=2, now=ledger.clock())
        assert operators.status().clock_behind_s == 290
        with ledger.engine.connect() as connection:
            found = connection.execute(select(schema.event.c.kind, schema.event.c.reason)).one()
        assert tuple(found) == ("clock_set_back", "by 290 s; brought back: 3 lanes, 2 jobs")
        assert "clock_set_back" in events.KINDS


class TestABudget:
    def test_whose_window_lies_ahead_counts_on_in_the_current_one(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 3, MINUTE)])
        ledger.clock.at += 30 * 86_400 * SECOND
        jobs = [ledger.send() for _ in range(5)]
        held = ledger.send()
        assert len(begin_all(ledger)) == 3
        announced(ledger)
        ledger.queue.hold(str(held))
        ledger.clock.at -= 30 * 86_400 * SECOND + ledger.clock.at % MINUTE
        jobs.append(ledger.send())
        assert begin_all(ledger) == set()  # until it is brought back
        assert budgets_back(ledger) == 4
        assert begin_all(ledger) == set()
        assert ledger.job(held).resume_at <= ledger.clock() + 10
        ledger.clock.advance(70)
        assert len(begin_all(ledger)) == 3
        assert {ledger.state(job) for job in jobs} == {State.SENT}
        ledger.queue.release(str(held))
        for _ in range(4):
            ledger.send()
        assert begin_all(ledger) == set()
        assert announced(ledger) == 1

    def test_brings_back_a_send_again_that_was_enqueued_by_such_a_clock(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 1, MINUTE)])
        for days in (30, 1):
            ledger.clock.advance(days * 86_400)
            if days == 30:
                first, _ = ledger.send(), ledger.send()
            else:
                ledger.send(priority="high")
            begin_all(ledger)
            ledger.clock.advance(-days * 86_400)
            assert budgets_back(ledger) == 1
        assert ledger.state(first) is State.SENT

    def test_brings_back_no_send_before_its_due_time(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 1, MINUTE)])
        day = 86_400 * SECOND
        due_at = ledger.clock() + 3 * day
        scheduled, held = (ledger.send(due_at=moment(due_at)) for _ in range(2))
        ledger.clock.at += 4 * day
        ledger.send(priority="high")
        assert len(begin_all(ledger)) == 1
        ledger.queue.hold(str(held))
        ledger.clock.at -= 4 * day
        assert budgets_back(ledger) == 2
        assert budgets_back(ledger) == 0
        assert ledger.job(scheduled).next_at == due_at
        assert ledger.job(held).resume_at == due_at
        assert ledger.queue.why(str(scheduled)).reason == "not_due"
        ledger.clock.at = due_at - SECOND
        assert begin_all(ledger) == set()
        ledger.clock.at += MINUTE
        assert len(begin_all(ledger)) == 1

    def test_is_brought_back_whatever_the_windows_of_other_tags_are(self, ledger: Ledger) -> None:
        a_day = Budget("default", "a=b", 1, 86_400 * SECOND)
        ledger.budgets = Budgets([a_day, Budget("default", "c=d", 1, MINUTE)])
        ledger.clock.at -= ledger.clock.at % a_day.per
        today, wrong = ([ledger.send(tags=tags) for _ in range(2)] for tags in ({"a": "b"}, {"c": "d", "e": "f"}))
        ledger.clock.advance(3_600)
        begin_all(ledger)
        ledger.clock.advance(-3_600)
        assert budgets_back(ledger) == 1
        assert {ledger.job(job).next_at for job in wrong if ledger.state(job) is State.QUEUED} == {ledger.clock()}
        (rest,) = (ledger.job(job) for job in today if ledger.state(job) is State.QUEUED)
        assert rest.next_at >= ledger.clock() + a_day.per

    def test_that_is_right_is_left_as_it_is(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 1, MINUTE), Budget("default", "a=b", 1, 86_400 * SECOND)])
        for _ in range(3):
            ledger.send(tags={"a": "b"})
        ledger.send(due_at=moment(ledger.clock() + 900 * MINUTE))
        begin_all(ledger)
        before = ledger.rows(schema.budget), ledger.rows(schema.job)
        assert budgets_back(ledger) == 0
        assert (ledger.rows(schema.budget), ledger.rows(schema.job)) == before


def budgets_back(ledger: Ledger) -> int:
    with ledger.writing() as connection:
        return set_back.budgets_step(connection, now=ledger.clock())


def announced(ledger: Ledger) -> int:
    with ledger.writing() as connection:
        return len(announce(connection))
