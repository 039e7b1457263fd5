"""How a lane keeps within what its provider allows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendq.clock import SECOND, Micros
from sendq.rules.pace import (
    CALLS,
    HOUR,
    MINUTE,
    PACES,
    STATED,
    STRETCH_FIRST,
    STRETCH_MOST,
    Limit,
    Pace,
    Pacer,
    call_of,
    pacer,
    read,
    relaxed,
    stated_costs,
    stretched,
    written,
)

NOW: Micros = 1_700_000_000 * SECOND
PACED = ("google", "microsoft", "ews")


def run(pacer: Pacer, calls: list[str], now: Micros = NOW) -> list[tuple[Micros, str]]:
    """When these calls start, one after another, as soon as they may."""
    starts = []
    for call in calls:
        now = max(now, pacer.start(call, now))
        pacer.take(call, now)
        starts.append((now, call))
    return starts


def most_in_a_window(starts: list[tuple[Micros, str]], limit: Limit) -> int:
    """The most units that start in any window of the limit."""
    units = [(at, limit.costs.get(call, 0)) for at, call in starts]
    most = within = oldest = 0
    for at, cost in units:
        within += cost
        while units[oldest][0] <= at - limit.window:
            within -= units[oldest][1]
            oldest += 1
        most = max(most, within)
    return most


class TestAPacedLane:
    @pytest.mark.parametrize("provider", PACED)
    @given(calls=st.lists(st.sampled_from(CALLS), min_size=20, max_size=60))
    def test_exceeds_no_limit_in_any_window_wherever_it_begins(self, provider: str, calls: list[str]) -> None:
        pace = PACES[provider]
        starts = run(Pacer(pace), calls * 5)
        assert all(most_in_a_window(starts, limit) <= limit.units for limit in pace.limits)

    @pytest.mark.parametrize("provider", PACED)
    @pytest.mark.parametrize("call", ["send", "modify"])
    def test_uses_nine_tenths_of_what_is_allowed(self, provider: str, call: str) -> None:
        pace = PACES[provider]
        starts = run(Pacer(pace), [call] * 1_000)
        took = starts[-1][0] - starts[0][0]
        allowed = min(limit.units / limit.costs[call] / limit.window for limit in pace.limits if limit.costs.get(call))
        assert 1_000 / took >= 0.9 * allowed

    def test_makes_up_for_a_start_that_came_late(self) -> None:
        pace = PACES["google"]
        punctual, late = Pacer(pace), Pacer(pace)
        run(punctual, ["send"] * 10)
        run(late, ["send"] * 5)
        run(late, ["send"] * 5, now=late.start("send", NOW) + SECOND // 2)
        assert late.start("send", NOW) == punctual.start("send", NOW)

    def test_counts_what_was_used_when_it_is_read_again(self) -> None:
        pace = PACES["google"]
        used = Pacer(pace)
        run(used, ["send"] * 4 + ["modify"])
        again = pacer(pace, used.text, now=NOW)
        assert all(0 <= again.start(call, NOW) - used.start(call, NOW) <= 1 for call in CALLS)

    def test_begins_anew_when_its_limits_are_others(self) -> None:
        used = Pacer(PACES["google"])
        (*_, (last, _)) = run(used, ["send"] * 4)
        assert pacer(PACES["imap"], used.text, now=NOW).start("send", last) == last

    def test_has_nothing_left_at_once_after_a_turn_that_nobody_heard_of_again(self) -> None:
        lost = Pacer(PACES["ews"])
        lost.drain(NOW)
        assert lost.start("send", NOW) > NOW

    def test_says_when_the_last_of_many_starts(self) -> None:
        expected = run(Pacer(PACES["google"]), ["send"] * 200)[-1][0]
        assert abs(Pacer(PACES["google"]).start_of(200, "send", NOW) - expected) < SECOND


REAL = {"google": {"send": 115, "modify": 10}, "microsoft": {"send": 6}, "ews": {"send": 3}}


class TestAnAnswerThatStatesWhatItsCallUsed:
    def turns(self, provider: str, calls: list[str]) -> list[tuple[Micros, str]]:
        """When calls start that are answered at once, in turns of ten."""
        pace, real = PACES[provider], REAL[provider]
        now, used, starts = NOW, None, []
        for place in range(0, len(calls), 10):
            turn = pacer(pace, used, now=now)
            for call in calls[place : place + 10]:
                ((now, _),) = run(turn, [call], now)
                starts.append((now, call))
                if call in real:
                    turn.correct(call, real[call], succeeded=True)
            used = turn.text
        return starts

    @pytest.mark.parametrize("provider", PACED)
    def test_keeps_the_lane_within_its_limits_by_their_real_use(self, provider: str) -> None:
        starts = self.turns(provider, ["send", "send", "modify"] * 200)
        for limit in PACES[provider].limits:
            real = {call: REAL[provider].get(call, cost) for call, cost in limit.costs.items()}
            costs = real if limit.name in STATED else limit.costs
            assert most_in_a_window(starts, replace(limit, costs=costs)) <= limit.units

    def test_lets_nine_tenths_of_the_real_limit_go(self) -> None:
        starts = self.turns("google", ["send"] * 500)
        took = starts[-1][0] - starts[0][0]
        assert 500 * 115 / took >= 0.9 * 6_000 / MINUTE

    def test_corrects_a_call_by_what_it_was_charged_whatever_others_state_meanwhile(self) -> None:
        together, apart = Pacer(PACES["google"]), Pacer(PACES["google"])
        run(together, ["send", "send"])
        for _ in range(2):
            together.correct("send", 115, succeeded=True)
            run(apart, ["send"])
            apart.correct("send", 115, succeeded=True)
        assert together.start("send", NOW) == apart.start("send", NOW)

    def test_is_remembered_with_the_lane(self) -> None:
        used = Pacer(PACES["google"], hours={1: 2})
        used.correct("send", 115, succeeded=True)
        again = pacer(PACES["google"], used.text, now=NOW)
        assert (again.stated, again.hours, stated_costs(used.text)) == ({"send": 115}, {1: 2}, {"send": 115})
        assert pacer(PACES["google"], again.text, now=NOW).stated == {"send": 115}

    @pytest.mark.parametrize("text", [None, Pacer(PACES["google"]).text, Pacer(PACES["google"], hours={1: 2}).text])
    def test_is_none_in_a_lane_that_never_had_one(self, text: str | None) -> None:
        assert stated_costs(text) == {}

    def test_teaches_nothing_about_successes_if_it_refused(self) -> None:
        used = Pacer(PACES["google"])
        run(used, ["send"])
        used.correct("send", 5, succeeded=False)
        assert stated_costs(used.text) == {}
        assert used.start("send", NOW) == NOW  # though it counts

    def test_is_not_believed_if_it_states_nonsense(self) -> None:
        used = Pacer(PACES["google"])
        run(used, ["send"])
        before = used.text
        used.correct("send", 1_001, succeeded=True)
        used.correct("unheard-of", 5, succeeded=True)
        assert used.text == before

    def test_changes_nothing_where_no_limit_is_counted_in_its_units(self) -> None:
        used = Pacer(PACES["imap"])
        run(used, ["send"])
        before = used.text
        used.correct("send", 3, succeeded=True)
        assert used.text == before


class TestAClockThatWasAhead:
    @pytest.mark.parametrize("provider", sorted(PACES))
    @pytest.mark.parametrize("call", ["send", "modify"])
    def test_delays_no_lane_by_more_than_its_pace_ever_does(self, provider: str, call: str) -> None:
        used = Pacer(PACES[provider], spacing=SECOND, stretch=SECOND)
        run(used, [call] * 50, NOW + HOUR)
        again = pacer(PACES[provider], used.text, now=NOW, spacing=SECOND, spacing_until=NOW + HOUR, stretch=SECOND)
        assert again.latest_start(NOW) <= NOW + MINUTE

    @pytest.mark.parametrize("provider", PACED)
    @given(calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=60), ahead=st.integers(0, SECOND))
    def test_is_told_from_what_a_right_clock_wrote(self, provider: str, calls: list[str], ahead: Micros) -> None:
        used = Pacer(PACES[provider])
        *_, (last, _) = run(used, calls)
        again = pacer(PACES[provider], used.text, now=last - ahead)
        assert again.text == pacer(PACES[provider], used.text, now=last + HOUR).text

    def test_keeps_the_days_limit(self) -> None:
        used = Pacer(replace(PACES["nylas"], daily=3), hours={(NOW + 5 * HOUR) // HOUR: 3})
        again = pacer(used.pace, used.text, now=NOW)
        assert NOW + 23 * HOUR < again.start("send", NOW) <= NOW + 25 * HOUR


class TestModificationsAfterARefusal:
    def test_start_at_least_a_second_apart(self) -> None:
        spaced = pacer(PACES["google"], None, now=NOW, spacing=SECOND, spacing_until=NOW + MINUTE)
        starts = [at for at, _ in run(spaced, ["modify"] * 20)]
        assert all(after - before >= SECOND for before, after in pairwise(starts))

    def test_keep_their_distance_from_one_turn_to_the_next(self) -> None:
        first = pacer(PACES["google"], None, now=NOW, spacing=SECOND, spacing_until=NOW + MINUTE)
        first.take("modify", NOW)
        after = pacer(PACES["google"], first.text, now=NOW, spacing=SECOND, spacing_until=NOW + MINUTE)
        assert after.start("modify", NOW) >= NOW + SECOND

    def test_do_not_slow_down_sends(self) -> None:
        spaced = pacer(PACES["google"], None, now=NOW, spacing=SECOND, spacing_until=NOW + MINUTE)
        spaced.take("modify", NOW)
        assert spaced.start("send", NOW) == NOW

    def test_keep_it_no_longer_once_they_have_behaved(self) -> None:
        spaced = pacer(PACES["google"], None, now=NOW, spacing=SECOND, spacing_until=NOW)
        assert [at for at, _ in run(spaced, ["modify"] * 2)] == [NOW, NOW]


class TestAPaceThatNobodyPublishes:
    def test_is_learned(self) -> None:
        assert {provider for provider, pace in PACES.items() if pace.learns} == {"imap", "yahoo", "nylas", "unknown"}

    def test_is_stretched_by_each_throttle_up_to_a_bound(self) -> None:
        stretch, seen = 0, []
        for _ in range(12):
            stretch = stretched(stretch)
            seen.append(stretch)
        assert (seen[0], seen[1], seen[-1]) == (STRETCH_FIRST, 2 * STRETCH_FIRST, STRETCH_MOST)

    def test_is_relaxed_by_successes_until_it_is_gone(self) -> None:
        assert 0 < relaxed(SECOND, 10) < SECOND
        assert relaxed(SECOND, 100) == 0

    def test_keeps_all_calls_apart(self) -> None:
        starts = run(pacer(PACES["imap"], None, now=NOW, stretch=SECOND), ["send", "modify", "send"])
        assert [at - NOW for at, _ in starts] == [0, SECOND, 2 * SECOND]


class TestADailyLimit:
    def test_is_kept_in_any_24_hours(self) -> None:
        starts = [at for at, _ in run(Pacer(Pace(1, daily=50)), ["send"] * 400)]
        assert all(starts[i + 50] - starts[i] >= 24 * HOUR for i in range(len(starts) - 50))
        assert starts[-1] - NOW <= 8 * 25 * HOUR

    def test_does_not_count_modifications(self) -> None:
        spent = Pacer(Pace(1, daily=1))
        spent.take("send", NOW)
        assert spent.start("modify", NOW) == NOW
        assert spent.start("send", NOW) > NOW

    def test_is_remembered(self) -> None:
        pace = Pace(1, daily=1)
        spent = Pacer(pace)
        spent.take("send", NOW)
        assert pacer(pace, spent.text, now=NOW).start("send", NOW) == spent.start("send", NOW)


class TestAPaceOfOnesOwn:
    @pytest.mark.parametrize("provider", sorted(PACES))
    def test_is_kept_as_text(self, provider: str) -> None:
        pace = PACES[provider]
        assert read(written(pace), "unknown") == pace

    def test_is_the_providers_if_nothing_is_kept(self) -> None:
        assert read(None, "ews") == PACES["ews"]


class TestACall:
    @pytest.mark.parametrize(
        ("operation", "form", "call"),
        [
            ("send", None, "send"),
            ("send", "json", "send"),
            ("send", "multipart", "multipart"),
            ("send", "mime", "multipart"),
            ("modify", None, "modify"),
            ("delete", None, "delete"),
        ],
    )
    def test_is_priced_by_operation_and_form(self, operation: str, form: str | None, call: str) -> None:
        assert call_of(operation, form) == call
