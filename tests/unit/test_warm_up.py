"""The warm-up of a new account: a daily limit that grows until it is over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq import InvalidArgument, WarmUp
from sendq.clock import SECOND
from sendq.rules.pace import pacer_of, written
from sendq.rules.paces import PaceRule, Paces
from sendq.rules.warm_up import DAY, UNREADABLE_LIMIT, daily_limit, days_until
from sendq.rules.warm_up import written as stored_of
from tests.support.facts import lane

NOW = 1_780_000_000 * SECOND
STORED = stored_of(WarmUp(), NOW)

warm_ups = st.builds(WarmUp, first=st.integers(1, 100), growth=st.floats(1.01, 2), most=st.integers(101, 5_000))


class TestTheLimit:
    def test_grows_by_a_fifth_on_each_day_and_ends_after_three_weeks(self) -> None:
        limits = [daily_limit(STORED, now=NOW + day * DAY) for day in range(22)]
        assert limits[:5] == [20, 24, 28, 34, 41]
        assert limits[19] == 638
        assert limits[20:] == [None, None]

    def test_is_no_more_than_that_of_the_settings(self) -> None:
        assert daily_limit(STORED, now=NOW, daily=10) == 10
        assert daily_limit(STORED, now=NOW + 30 * DAY, daily=500) == 500
        assert daily_limit(None, now=NOW, daily=500) == 500

    def test_is_the_first_while_the_clock_is_behind(self) -> None:
        assert daily_limit(STORED, now=NOW - 3 * DAY) == 20

    @pytest.mark.parametrize(
        "stored", ['{"v":2}', "[1,2,3]", "nonsense", "", "null", '["x",20,1.2,700]', "[0,20,9,700]", "[0,20,1.2,700,5]"]
    )
    def test_is_small_while_a_newer_version_alone_can_read_it(self, stored: str) -> None:
        assert daily_limit(stored, now=NOW) == UNREADABLE_LIMIT
        assert daily_limit(stored, now=NOW, daily=5) == 5
        assert days_until(stored, 2 * UNREADABLE_LIMIT + 1, now=NOW, daily=None) == 2

    @given(warm_ups, st.integers(0, 400))
    def test_never_shrinks_and_is_over_for_good(self, warm_up: WarmUp, day: int) -> None:
        today, tomorrow = warm_up.limit(day), warm_up.limit(day + 1)
        if today is None:
            assert tomorrow is None
        else:
            assert warm_up.first <= today < warm_up.most
            assert tomorrow is None or tomorrow >= today

    @given(warm_ups, st.integers(1, 3_000))
    def test_says_on_which_day_a_message_is_sent(self, warm_up: WarmUp, number: int) -> None:
        stored, sent, day = stored_of(warm_up, NOW), 0, 0
        while (limit := warm_up.limit(day)) is not None and sent + limit < number:
            sent, day = sent + limit, day + 1
        assert days_until(stored, number, now=NOW, daily=None) == day

    def test_says_it_for_an_account_with_a_lasting_limit_too(self) -> None:
        assert days_until(STORED, 20 + 22 + 22 + 1, now=NOW, daily=22) == 3
        assert days_until(STORED, 10_001, now=NOW, daily=10) == 1_000


class TestAnAccount:
    def test_sends_no_more_than_its_limit_within_24_hours(self) -> None:
        pacer = pacer_of(lane(warm_up=STORED), now=NOW)
        for _ in range(20):
            assert pacer.start("send", NOW) < NOW + 60 * SECOND
            pacer.take("send", NOW)
        assert pacer.day_is_full
        assert pacer.start("send", NOW) >= NOW + DAY
        assert pacer.start("modify", NOW) < NOW + 60 * SECOND
        tomorrow = NOW + DAY + DAY // 24
        later = pacer_of(lane(warm_up=STORED, used=pacer.text), now=tomorrow)
        for _ in range(24):
            assert later.start("send", tomorrow) < tomorrow + 60 * SECOND
            later.take("send", tomorrow)
        assert later.start("send", tomorrow) >= tomorrow + DAY
        assert later.start_of(1 + 28, "send", tomorrow) >= tomorrow + 2 * DAY

    def test_keeps_the_lower_one_of_two_limits(self) -> None:
        pace = Paces([PaceRule(grant="g1", daily=5)]).of("default", "google", "g1")
        assert pacer_of(lane(warm_up=STORED, pace=written(pace)), now=NOW).pace.daily == 5

    def test_has_none_when_the_warm_up_is_over(self) -> None:
        assert pacer_of(lane(warm_up=STORED), now=NOW + 20 * DAY).pace.daily is None


BAD: dict[str, dict[str, Any]] = {
    "first: is not an integer from 1": {"first": 0},
    "first: is not an integer from 1 to 99,999": {"first": True},
    "growth: is not a number from 1.01 to 2.0": {"growth": 1},
    "growth: is not a number from 1.01 to 2.0; ": {"growth": float("nan")},
    "growth: is not a number": {"growth": "1.2"},
    "most: is not an integer from 2 to 100,000": {"most": 100_001},
    "most: is not more than first": {"first": 20, "most": 20},
}


class TestABadWarmUp:
    @pytest.mark.parametrize(("says", "given"), BAD.items())
    def test_is_refused_with_its_field(self, says: str, given: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            WarmUp(**given)
        assert [str(problem).startswith(says) for problem in caught.value.problems] == [True]
