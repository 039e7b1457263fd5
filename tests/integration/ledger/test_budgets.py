"""Budgets in the ledger: never more sends begin in a window, whoever claims, and the others say so while they wait."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import sentry_sdk
from sqlalchemy import event, select

from sendq import LedgerUnavailable, NewBatch, Send, State
from sendq.clock import SECOND, moment
from sendq.facts.turns import Group
from sendq.ledger.db import schema
from sendq.ledger.dispatching import turns
from sendq.ledger.dispatching.record import record
from sendq.ledger.reading.gauges import levels
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.rule_ids import OVER_BUDGET
from sendq.rules.states import Event
from sendq.rules.waiting_job import HELD
from tests.integration.ledger.test_turns_at_once import at_once
from tests.support.leading import FixedLeadership
from tests.support.ledger import MESSAGE, Ledger, begin_of, end, outcome
from tests.support.waiting import LIMIT_S
from worker.leading.budgets import BudgetWatch

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
MAY = {"campaign": "may"}


@pytest.fixture
def three(ledger: Ledger) -> Ledger:
    """At most three sends an hour; the hour has just begun."""
    return with_budgets(ledger, Budget("default", "", 3, HOUR))


def with_budgets(ledger: Ledger, *budgets: Budget) -> Ledger:
    ledger.budgets = Budgets(budgets)
    ledger.clock.at += HOUR - ledger.clock.at % HOUR
    return ledger


def with_leader(ledger: Ledger, *budgets: Budget) -> BudgetWatch:
    """Start the workers again with other budgets; returns the loop of their leader, which has looked once."""
    ledger.budgets = Budgets(budgets)
    watch = BudgetWatch(ledger.engine, FixedLeadership(True), ledger.budgets, now=ledger.clock)
    ledger.clock.advance(15)
    watch.run_once()
    ledger.clock.advance(1)
    return watch


def begin_all(ledger: Ledger) -> set[UUID]:
    """The jobs that begin now, turn after turn, a few of each turn later than the first; their calls succeed."""
    begun: set[UUID] = set()
    while ledger.absorb() or ledger.due():
        for claimed in ledger.claim(ledger.offer()):
            going, waiting = [*claimed.begun], [job.id for job in claimed.jobs if job.id not in claimed.begun]
            while going:
                begun.update(going)
                done = [outcome(claimed, job, Event.ACCEPT, sent="yes") for job in claimed.jobs if job.id in going]
                following, waiting = waiting[:2], waiting[2:]
                went = ledger.record(*done, begins=[(claimed, job) for job in following]).begun
                going = [job for job in following if job in went]
            ledger.record(ends=[end(claimed, ramp=2)])
            ledger.set_lane(claimed.lane.grant_id, ready_at=0)
    return begun


def used(ledger: Ledger) -> dict[str, int]:
    return {row.tag: row.used for row in ledger.rows(schema.budget)}


class TestABudget:
    def test_is_never_exceeded_and_the_others_wait_for_the_next_window(self, three: Ledger) -> None:
        jobs = [three.send(f"g{number % 2}") for number in range(8)]
        assert len(begin_all(three)) == 3
        waiting = [three.job(job) for job in jobs if three.state(job) is State.QUEUED]
        assert {row.rule for row in waiting} == {OVER_BUDGET}
        ends = three.clock() + HOUR
        assert all(ends <= row.next_at < ends + 10 * SECOND for row in waiting)
        three.clock.at = ends - 1
        assert begin_all(three) == set()
        three.clock.at = ends + 10 * SECOND
        assert len(begin_all(three)) == 3
        three.clock.at = ends + HOUR + 10 * SECOND
        assert len(begin_all(three)) == 2

    def test_counts_each_begin_of_a_turn_that_lasts_into_the_next_window(self, three: Ledger) -> None:
        jobs = [three.send() for _ in range(5)]
        claimed = three.serve()
        (first,) = claimed.begun
        three.clock.advance(3_600)
        begins = [(claimed, job) for job in jobs if job != first]
        assert len(three.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), begins=begins).begun) == 3
        assert three.state(first) is State.SENT
        assert used(three) == {"": 3}

    def test_of_a_tag_lets_the_rest_of_the_lane_go_on(self, ledger: Ledger) -> None:
        with_budgets(ledger, Budget("default", "campaign=may", 1, HOUR))
        tagged = [ledger.send(tags=MAY, priority="high") for _ in range(3)]
        plain = [ledger.send(priority="low") for _ in range(3)]
        begun = begin_all(ledger)
        assert begun >= {*plain}
        assert len(begun & {*tagged}) == 1
        assert used(ledger) == {"campaign=may": 1}

    def test_lets_every_lane_go_on_in_turn(self, three: Ledger) -> None:
        lane_of = {three.send(f"g{number % 3}"): number % 3 for number in range(45)}
        begin_all(three)
        begun: Counter[int] = Counter()
        for _ in range(6):
            three.clock.at += HOUR - three.clock() % HOUR
            for _ in range(10):
                three.clock.advance(1)
                begun.update(lane_of[job] for job in begin_all(three))
        assert begun.keys() == {0, 1, 2}
        assert sum(begun.values()) == 6 * 3

    @pytest.mark.parametrize("budgets", [("",), ("", "campaign=may")], ids=["one", "two"])
    def test_brings_back_few_more_in_each_window_than_may_begin(self, ledger: Ledger, budgets: tuple[str, ...]) -> None:
        units = {"": (2, MINUTE), "campaign=may": (1, HOUR)}
        with_budgets(ledger, *(Budget("default", tag, *units[tag]) for tag in budgets))
        jobs = [ledger.send(tags=MAY if number % 2 else None) for number in range(40)]
        assert len(begin_all(ledger)) == 2
        watch = BudgetWatch(ledger.engine, FixedLeadership(True), ledger.budgets, now=ledger.clock)
        rewritten = 0
        for _ in range(6):
            before = {job: ledger.job(job).next_at for job in jobs}
            ledger.clock.at += MINUTE - ledger.clock.at % MINUTE + 3 * SECOND
            begun = begin_all(ledger)
            if len(budgets) == 1:
                assert len(begun) == 2
            ledger.clock.advance(5)
            watch.run_once()
            ledger.clock.advance(1)
            begun |= begin_all(ledger)
            assert len(begun) == 2
            rewritten += sum(ledger.job(job).next_at != before[job] for job in jobs if job not in begun)
        assert rewritten <= (6 if len(budgets) == 1 else 6 + 20)

    def test_needs_room_in_each_that_counts_the_job(self, ledger: Ledger) -> None:
        with_budgets(ledger, Budget("default", "", 3, HOUR), Budget("default", "campaign=may", 1, HOUR))
        for _ in range(3):
            ledger.send(tags=MAY)
            ledger.send()
        assert len(begin_all(ledger)) == 3
        assert used(ledger) == {"": 3, "campaign=may": 1}

    def test_does_not_concern_changes_of_mail(self, three: Ledger) -> None:
        changes = three.modify("g1", [f"m{number}" for number in range(5)])
        begun: set[UUID] = set()
        for _ in changes:  # they keep their spacing
            begun |= begin_all(three)
            three.clock.advance(60)
        assert begun == {*changes}
        assert used(three) == {}

    def test_never_delays_the_repeat_of_a_send_that_may_have_gone_out(self, three: Ledger) -> None:
        doubtful = three.send("g9")
        three.absorb()
        three.set_job(doubtful, doubt_at=three.clock(), key_at=three.clock(), next_at=three.clock() + 60 * SECOND)
        for _ in range(5):
            three.send("g1")
        assert len(begin_all(three)) == 3
        three.clock.advance(61)
        three.set_lane("g9", next_at=three.clock())
        claimed = three.claim(three.offer())
        assert {job for one in claimed for job in one.begun} == {doubtful}
        assert used(three) == {"": 3}

    def test_counts_a_job_once_when_its_group_is_recorded_twice(self, three: Ledger) -> None:
        jobs = [three.send() for _ in range(2)]
        claimed = three.serve()
        done = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
        (other,) = {*jobs} - claimed.begun
        for _ in range(2):
            assert three.record(done, begins=[(claimed, other)]).begun == {other}
        assert used(three) == {"": 2}

    def test_keeps_its_count_while_other_workers_have_another_window_for_it(self, ledger: Ledger) -> None:
        by_day, by_hour = Budget("default", "", 3, 24 * HOUR), Budget("default", "", 3, HOUR)
        with_budgets(ledger, by_day)
        for _ in range(9):
            ledger.send()
        assert len(begin_all(ledger)) == 3
        with_budgets(ledger, by_hour)
        ledger.send("g2")
        assert len(begin_all(ledger)) == 1
        ledger.budgets = Budgets([by_day])
        ledger.send("g3")
        assert begin_all(ledger) == set()
        ledger.budgets = Budgets([by_hour])
        for _ in range(4):
            ledger.send("g4")
        assert len(begin_all(ledger)) == 2
        with ledger.writing() as connection:
            seen = {one.per: one.used for one in levels(connection, now=ledger.clock()).budgets}
        assert seen == {"day": 3, "hour": 3}

    @pytest.mark.parametrize(
        "change",
        [{"next_at": HELD}, {"generation": 1}, {"content_version": 1}, {"state": "cancelled"}],
        ids=lambda change: str(*change),
    )
    def test_counts_no_job_that_has_changed_since_and_does_not_begin(
        self, three: Ledger, change: dict[str, Any]
    ) -> None:
        for _ in range(3):
            three.send()
        claimed = three.serve()
        others = [job.id for job in claimed.jobs if job.id not in claimed.begun]
        for job in others:
            three.set_job(job, **change)
        assert three.record(begins=[(claimed, job) for job in others]).begun == set()
        assert used(three) == {"": 1}

    @pytest.mark.parametrize("change", [{"next_at": HELD}, {"content_version": 1}], ids=lambda change: str(*change))
    def test_counts_no_job_that_changes_during_its_claim(self, pg_ledger: Ledger, change: dict[str, Any]) -> None:
        three = with_budgets(pg_ledger, Budget("default", "", 3, HOUR))
        job = three.send()
        (turn,) = three.offer()
        with three.writing() as connection:

            def meanwhile(*given: Any) -> None:
                if "sendq_budget" in given[2] and three.job(job).content_version == 0:
                    three.set_job(job, **change)

            event.listen(connection, "before_cursor_execute", meanwhile)
            (claimed,) = turns.claim(
                connection, [(turn.lane_id, turn.fence)], worker=three.worker, now=three.clock(), jobs_each=10,
                budgets=three.budgets,
            )  # fmt: skip
            event.remove(connection, "before_cursor_execute", meanwhile)
        assert claimed.begun == set()
        assert used(three) == {}

    def test_is_left_to_a_claim_of_its_own(self, three: Ledger) -> None:
        three.send()
        assert at_once(three, budgets=three.budgets) == []
        three.budgets = Budgets([Budget("other", "", 1, HOUR)])
        assert len(at_once(three, budgets=three.budgets)) == 1

    def test_costs_no_statement_where_there_is_none(self, ledger: Ledger) -> None:
        with_budgets(ledger, Budget("default", "campaign=may", 1, HOUR), Budget("other", "", 1, HOUR))
        ledger.send(tags={"campaign": "june"})
        ledger.send()
        seen: list[str] = []
        event.listen(ledger.engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
        assert len(begin_all(ledger)) == 2
        assert [one for one in seen if "sendq_budget" in one] == []


class TestTwoWorkersAtOnce:
    def test_begin_no_more_than_the_budget(self, pg_ledger: Ledger) -> None:
        ledger = with_budgets(pg_ledger, Budget("default", "", 7, HOUR))
        grants = [f"g{number}" for number in range(6)]
        for grant in grants * 3:
            ledger.send(grant)
        offered = ledger.offer()

        def work(number: int) -> int:
            begun = 0
            for turn in offered[number::3]:
                for claimed in ledger.claim([turn]):
                    begun += len(claimed.begun)
                    rest = [begin_of(claimed, job.id) for job in claimed.jobs if job.id not in claimed.begun]
                    with ledger.writing() as connection:
                        begun += len(record(connection, Group((), rest), now=ledger.clock()).begun)
            return begun

        with ThreadPoolExecutor(3) as pool:
            assert sum(pool.map(work, range(3))) == 7
        assert used(ledger) == {"": 7}

    def test_begin_one_where_the_other_has_counted_the_last_but_not_committed(self, pg_ledger: Ledger) -> None:
        ledger = with_budgets(pg_ledger, Budget("default", "", 1, HOUR))
        ledger.send("g1")
        ledger.send("g2")
        one, other = ledger.offer()
        with ThreadPoolExecutor(1) as pool:
            with ledger.writing() as connection:
                claimed = turns.claim(
                    connection, [(one.lane_id, one.fence)], worker=ledger.worker, now=ledger.clock(), jobs_each=10,
                    budgets=ledger.budgets,
                )  # fmt: skip
                waits = pool.submit(ledger.claim, [other])
            assert [len(turn.begun) for turn in (*claimed, *waits.result())] == [1, 0]
        assert begin_all(ledger) == set()

    def test_go_on_when_one_of_them_has_frozen_with_the_budget_locked(self, pg_ledger: Ledger) -> None:
        ledger = with_budgets(pg_ledger, Budget("default", "", 5, HOUR))
        ledger.send("g1")
        ledger.send("g2")
        one, other = ledger.offer()

        def freeze() -> None:
            with ledger.writing() as frozen, ThreadPoolExecutor(1) as pool:
                turns.claim(
                    frozen, [(one.lane_id, one.fence)], worker=ledger.worker, now=ledger.clock(), jobs_each=10,
                    budgets=ledger.budgets,
                )  # fmt: skip
                (claimed,) = pool.submit(ledger.claim, [other]).result(LIMIT_S)
                assert len(claimed.begun) == 1
                frozen.execute(select(1))

        with pytest.raises(LedgerUnavailable, match="ended the connection"):
            freeze()
        assert used(ledger) == {"": 1}


class TestWhoAsks:
    def test_is_told_which_budget_and_until_when(self, three: Ledger) -> None:
        jobs = [three.send() for _ in range(4)]
        begin_all(three)
        (waits,) = [job for job in jobs if three.state(job) is State.QUEUED]
        why = three.queue.why(str(waits))
        assert (why.reason, why.rule) == ("over_budget", OVER_BUDGET)
        assert why.says.startswith("it is over the budget of 3 an hour for application default; it goes on at ")
        with three.writing() as connection:
            (seen,) = levels(connection, now=three.clock()).budgets
        assert (seen.used, seen.most, seen.per, seen.over) == (3, 3, "hour", True)
        assert seen.until == moment(three.clock() + HOUR)

    def test_is_promised_no_time_that_the_budget_cannot_keep(self, three: Ledger) -> None:
        three.send(tags=MAY)
        begin_all(three)
        batch = three.queue.send_many([Send("g1", MESSAGE)] * 2, batch=NewBatch(tags=MAY)).id
        job = three.send()
        assert three.queue.batch(batch).eta is not None
        assert three.queue.why(str(job)).eta is None  # the third of two
        assert three.queue.grant("g1").eta is None
        three.queue.cancel(str(job))
        assert three.queue.grant("g1").eta is not None
        with_budgets(three, Budget("default", "campaign=may", 1, HOUR))
        three.send("g2", tags=MAY)
        begin_all(three)
        assert three.queue.batch(batch).eta is None

    def test_sees_no_alert_for_a_budget_that_is_only_used_up(self, three: Ledger) -> None:
        for _ in range(3):
            three.send()
        begin_all(three)
        with three.writing() as connection:
            (seen,) = levels(connection, now=three.clock()).budgets
        assert (seen.used, seen.over) == (3, False)

    def test_finds_one_event_for_each_window(self, three: Ledger) -> None:
        for _ in range(9):
            three.send()
        watch = BudgetWatch(three.engine, FixedLeadership(True), three.budgets, now=three.clock)
        for _ in range(2):
            begin_all(three)
            watch.run_once()
            watch.run_once()
            three.clock.advance(3_610)
        events = [(row.kind, row.application, row.tag, row.rule) for row in three.rows(schema.event)]
        assert events == [("over_budget", "default", None, OVER_BUDGET)] * 2

    def test_sees_what_waits_go_on_once_a_budget_is_raised(self, three: Ledger) -> None:
        jobs = {three.send(f"g{number % 2}") for number in range(20)}
        begun = begin_all(three)
        watch = with_leader(three, Budget("default", "", 9, HOUR))
        begun |= begin_all(three)
        assert len(begun) == 9
        for least, seconds in ((2, 3_600), (9, 15)):
            three.clock.advance(seconds)
            watch.run_once()
            three.clock.advance(1)
            begun |= begin_all(three)
            assert 9 + least <= len(begun) <= 18 < len(jobs)

    @pytest.mark.parametrize("state", ["held", "closed", "paced"])
    def test_sees_room_go_to_accounts_that_may_begin(self, three: Ledger, state: str) -> None:
        for _ in range(9):
            three.send("g1")
        begin_all(three)
        free = {three.send("g2") for _ in range(9)}
        begin_all(three)
        column = {"held": "held_until", "closed": "closed_at", "paced": "ready_at"}[state]
        three.set_lane("g1", **{column: three.clock() + 20 * HOUR})
        with_leader(three, Budget("default", "", 9, HOUR))
        assert len(begin_all(three) & free) == 6

    @pytest.mark.parametrize("others", [(), (Budget("default", "a=b", 1, HOUR),)], ids=["none", "of another tag"])
    def test_sees_what_waits_go_on_once_a_budget_is_removed(self, three: Ledger, others: tuple[Budget, ...]) -> None:
        jobs = [three.send() for _ in range(8)]
        changed = three.send()
        begin_all(three)
        three.queue.reschedule(str(changed), due_at=moment(three.clock() + 2 * HOUR))
        with_leader(three, *others)
        assert three.queue.why(str(changed)).reason == "not_due"
        begin_all(three)
        assert {three.state(job) for job in jobs} == {State.SENT}
        assert three.state(changed) is State.QUEUED
        three.clock.at += HOUR
        with_leader(three, *others)
        assert three.rows(schema.budget) == []
        assert three.queue.grant("g1").eta is not None

    def test_sees_a_count_begin_again_with_another_unit(self, three: Ledger) -> None:
        for _ in range(9):
            three.send()
        begin_all(three)
        with_leader(three, Budget("default", "", 4, MINUTE))
        assert len(begin_all(three)) == 4
        assert {row.per for row in three.rows(schema.budget)} == {MINUTE, HOUR}

    def test_keeps_its_count_while_there_are_leaders_with_other_settings(self, three: Ledger) -> None:
        ours = three.budgets
        jobs = [three.send() for _ in range(9)]
        assert len(begin_all(three)) == 3
        for _ in range(3):
            with_leader(three, Budget("default", "", 3, MINUTE))
            three.budgets = ours
            assert begin_all(three) == set()
        assert sum(three.state(job) is State.SENT for job in jobs) == 3

    def test_sees_others_go_on_when_those_are_cancelled_that_waited_for_the_window(self, three: Ledger) -> None:
        jobs = [three.send() for _ in range(12)]
        watch = with_leader(three, *three.budgets.all)
        begin_all(three)
        next_ones = sorted((row for row in map(three.job, jobs) if row.state == "queued"), key=lambda row: row.next_at)
        for row in next_ones[:2]:
            three.queue.cancel(str(row.id))
        three.clock.at += HOUR + 2 * SECOND
        watch.run_once()
        begun = begin_all(three)
        for _ in range(2):
            three.clock.advance(15)
            watch.run_once()
            three.clock.advance(1)
            begun |= begin_all(three)
        assert len(begun) == 3
        assert begin_all(three) == set()

    def test_finds_an_alert_of_its_own_kind(self, three: Ledger) -> None:
        alerts: list[list[str]] = []
        for _ in range(9):
            three.send()
        begin_all(three)
        with sentry_sdk.isolation_scope():
            sentry_sdk.init(
                dsn="https://key@sentry.example.com/1", default_integrations=False,
                before_send=lambda event, _: alerts.append(event["fingerprint"]),
            )  # fmt: skip
            try:
                BudgetWatch(three.engine, FixedLeadership(True), three.budgets, now=three.clock).run_once()
            finally:
                sentry_sdk.init(default_integrations=False)
        assert alerts == [["sendq", "over_budget", OVER_BUDGET]]
