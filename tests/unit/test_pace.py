"""How fast a lane goes, and when it wants its next turn."""

from __future__ import annotations

import pytest

from sendq.rules.pace import PACES, PROVIDERS, next_ramp, next_turn_at, pace_of, probing_room


class TestThePaces:
    def test_are_there_for_every_provider(self) -> None:
        assert set(PACES) == set(PROVIDERS)

    def test_of_a_provider_that_nobody_knows_are_those_of_unknown(self) -> None:
        assert pace_of("a provider of next year") == PACES["unknown"]

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_let_every_lane_make_a_call(self, provider: str) -> None:
        assert pace_of(provider).width >= 1

    def test_never_let_an_exchange_server_see_two_calls_at_once(self) -> None:
        assert pace_of("ews").width == 1


class TestTheNextTurn:
    def test_comes_when_the_first_waiting_job_is_due(self) -> None:
        assert next_turn_at(50, ready_at=0, held_until=None, closed=False) == 50

    def test_waits_for_the_lanes_pace(self) -> None:
        assert next_turn_at(50, ready_at=70, held_until=None, closed=False) == 70

    def test_waits_for_the_end_of_a_hold(self) -> None:
        assert next_turn_at(50, ready_at=70, held_until=90, closed=False) == 90

    def test_does_not_wait_for_a_hold_that_is_over(self) -> None:
        assert next_turn_at(50, ready_at=0, held_until=10, closed=False) == 50

    def test_does_not_come_when_nothing_waits(self) -> None:
        assert next_turn_at(None, ready_at=70, held_until=90, closed=False) is None

    def test_does_not_come_while_the_lane_is_closed(self) -> None:
        assert next_turn_at(50, ready_at=0, held_until=None, closed=True) is None


class TestTheRamp:
    def test_doubles_with_every_success_up_to_the_width(self) -> None:
        ramp, steps = 1, []
        for _ in range(5):
            steps.append(ramp)
            ramp = next_ramp(ramp, 6, succeeded=True)
        assert steps == [1, 2, 4, 6, 6]

    def test_stays_where_it_is_when_a_call_fails(self) -> None:
        assert next_ramp(2, 6, succeeded=False) == 2


class TestAPairThatHasToProveItself:
    def test_begins_as_many_calls_as_its_ramp_allows(self) -> None:
        assert probing_room(1, young=0, old=0) == 1
        assert probing_room(4, young=3, old=0) == 1
        assert probing_room(4, young=4, old=0) == 0

    def test_lets_one_more_go_for_each_call_that_hangs(self) -> None:
        on_the_wire = 0
        counts = []
        for _ in range(4):  # nothing comes back, and each time all calls have become old
            on_the_wire += probing_room(1, young=0, old=on_the_wire)
            counts.append(on_the_wire)
        assert counts == [1, 3, 7, 15]
