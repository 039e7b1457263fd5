"""Budgets: what they count, in which windows, and which settings are refused."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from sendq.clock import SECOND, Micros
from sendq.rules.budgets import Budget, Budgets, goes_on_at, said, use_of
from settings import Settings, SettingsError
from tests.support.facts import claimed_job

HOUR = 3_600 * SECOND
DAY = 24 * HOUR
NOON = 20_000 * DAY + 12 * HOUR
WHOLE = Budget("shop", "", 500, HOUR)
MAY = Budget("shop", "campaign=may", 200, DAY)


class TestTheSetting:
    def test_is_read(self) -> None:
        given = '{"default": "500/h", "default campaign=may": " 200 / d ", "default a=b": "3/min"}'
        assert Settings.load({"SENDQ_BUDGETS": given}).budgets == (
            Budget("default", "", 500, HOUR),
            Budget("default", "campaign=may", 200, DAY),
            Budget("default", "a=b", 3, 60 * SECOND),
        )

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("500/h", "is not JSON"),
            ('["500/h"]', "is not a JSON object"),
            ('{"default": "0/h"}', "allows no send"),
            ('{"default": "-5/h"}', "allows no send"),
            ('{"default": "5000000000/h"}', "allows more than"),
            ('{"default": "500/week"}', "has an unknown unit"),
            ('{"default": "500"}', "is not a number of sends and a unit"),
            ('{"default": "1.5/h"}', "is not a number of sends and a unit"),
            ('{"default": 500}', "is not a number of sends and a unit"),
            ('{"default": null}', "is not a number of sends and a unit"),
            ('{"default": "\u0665/h"}', "is not a number of sends and a unit"),
            ('{"default campaign": "1/h"}', "names a tag that has no ="),
            ('{"default ": "1/h"}', "names a tag that has no ="),
            ('{"default to=ann@example.com": "1/h"}', "names a tag that has a value that looks like an email address"),
            ('{" a=b": "1/h"}', "does not begin with an application"),
            ('{"default": "1/h", "default": "2/h"}', "names an application or tag twice"),
            ('{"shop": "1/h"}', "names an unknown application 'shop'"),
        ],
    )
    def test_is_refused_with_its_reason(self, given: str, reason: str) -> None:
        with pytest.raises(SettingsError) as refused:
            Settings.load({"SENDQ_BUDGETS": given})
        (problem,) = refused.value.problems
        assert problem.field == "SENDQ_BUDGETS"
        assert reason in problem.reason


class TestTheBudgetsOfAJob:
    budgets = Budgets([WHOLE, MAY])

    def test_are_those_of_its_application_and_tags(self) -> None:
        assert self.budgets.of("shop", claimed_job(operation="send", tags="campaign=may x=y")) == (WHOLE, MAY)
        assert self.budgets.of("shop", claimed_job(operation="send", tags=None)) == (WHOLE,)
        assert self.budgets.of("other", claimed_job(operation="send", tags="campaign=may")) == ()

    def test_are_none_of_what_is_no_send_or_may_have_gone_out(self) -> None:
        assert self.budgets.of("shop", claimed_job(operation="modify")) == ()
        assert self.budgets.of("shop", claimed_job(operation="send", doubt_at=NOON)) == ()

    def test_are_none_of_a_job_that_waits_for_another(self) -> None:
        assert self.budgets.of("shop", claimed_job(operation="send", rule="after")) == ()


class TestTheUseOfABudget:
    def used(self, budget: Budget, at: Micros, now: Micros) -> tuple[Micros, int]:
        use = use_of(budget, at, 7, None, now=now)
        return use.window_at, use.used

    def test_begins_again_with_each_window(self) -> None:
        assert self.used(WHOLE, NOON, NOON + HOUR - 1) == (NOON, 7)
        assert self.used(WHOLE, NOON, NOON + HOUR) == (NOON + HOUR, 0)
        assert self.used(MAY, NOON - 12 * HOUR, NOON + 12 * HOUR) == (NOON + 12 * HOUR, 0)

    def test_counts_in_the_later_window_while_a_clock_is_behind(self) -> None:
        assert self.used(WHOLE, NOON, NOON - 1) == (NOON, 7)

    def test_goes_over_once_in_each_window(self) -> None:
        use = use_of(WHOLE, NOON, 500, None, now=NOON + 1)
        assert not use.has_room
        use.go_over(NOON + 1)
        use.go_over(NOON + 2)
        assert use.over_at == NOON + 1
        later = use_of(WHOLE, NOON, 500, use.over_at, now=NOON + HOUR)
        later.go_over(NOON + HOUR)
        assert later.over_at == NOON + HOUR

    def test_lets_lanes_go_on_soon_after_its_window_and_not_all_at_once(self) -> None:
        use = use_of(WHOLE, NOON, 500, None, now=NOON)
        starts = {goes_on_at(use, UUID(int=number * 7_654_321)) - use.ends_at for number in range(50)}
        assert len(starts) > 40
        assert 0 <= min(starts) <= max(starts) < 10 * SECOND

    def test_lets_one_more_of_a_lane_come_back_in_each_window_than_may_begin(self) -> None:
        use = use_of(Budget("shop", "", 3, HOUR), NOON, 3, None, now=NOON)
        starts = [goes_on_at(use, UUID(int=7), place) for place in range(8)]
        assert [(at - use.ends_at) // HOUR for at in starts] == [0, 0, 0, 0, 1, 1, 1, 2]
        assert starts == sorted(starts)

    def test_lets_each_lane_be_the_first_as_often_as_any_other(self) -> None:
        lanes = [UUID(int=number * 7_654_321) for number in range(10)]
        first: Counter[UUID] = Counter()
        for window in range(200):
            use = use_of(WHOLE, NOON + window * HOUR, 500, None, now=NOON + window * HOUR)
            first[min(lanes, key=lambda lane: goes_on_at(use, lane))] += 1
        assert {lane: 8 <= first[lane] <= 40 for lane in lanes} == dict.fromkeys(lanes, True)


def test_a_budget_is_said_as_people_say_it() -> None:
    assert said("shop", "", 1_500, HOUR) == "1,500 an hour for application shop"
    assert said("shop", "a=b", 2, 60 * SECOND) == "2 a minute for application shop, tag a=b"
