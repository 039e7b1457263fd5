"""Which lanes get the next turns, and how turns are bundled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from sendq.rules.fair_share import bundles, fit
from sendq.rules.fair_share import choose as choose_with_slots

Lane = TypeVar("Lane")

LANES = st.lists(st.integers(1, 4), max_size=20)
PAIRS = st.dictionaries(st.sampled_from(["google", "microsoft", "ews", "imap"]), LANES)


def choose(due: Mapping[str, Sequence[tuple[Lane, int]]], free: int) -> list[Lane]:
    """The chosen lanes alone."""
    return [lane for lane, _ in choose_with_slots(due, free)]


def named(pairs: dict[str, list[int]]) -> dict[str, list[tuple[tuple[str, int], int]]]:
    return {name: [((name, place), slots) for place, slots in enumerate(lanes)] for name, lanes in pairs.items()}


class TestChoosingLanes:
    def test_takes_those_first_that_have_waited_longest(self) -> None:
        assert choose({"google": [("a", 1), ("b", 1), ("c", 1)]}, 2) == ["a", "b"]

    def test_goes_round_between_the_pairs(self) -> None:
        due = {"google": [(f"g{n}", 1) for n in range(10_000)], "ews": [("e0", 1)]}
        assert choose(due, 3) == ["g0", "e0", "g1"]

    def test_gives_a_wide_lane_its_turn_though_less_is_free(self) -> None:
        assert choose({"google": [("wide", 4), ("next", 4)]}, 1) == ["wide"]

    def test_chooses_nothing_while_nothing_is_free(self) -> None:
        assert choose({"google": [("a", 1)]}, 0) == []
        assert choose({"google": [("a", 1)]}, -3) == []

    def test_leaves_no_slot_empty_while_a_lane_is_due(self) -> None:
        assert choose({"google": [], "ews": [("e", 1)], "imap": [("i", 1), ("j", 1)]}, 9) == ["e", "i", "j"]

    @given(PAIRS, st.integers(-2, 40))
    def test_never_takes_more_than_one_lane_beyond_what_is_free(self, pairs: dict[str, list[int]], free: int) -> None:
        due = named(pairs)
        slots = {lane: calls for lanes in due.values() for lane, calls in lanes}
        chosen = choose(due, free)
        assert len(set(chosen)) == len(chosen)
        assert not chosen or sum(slots[lane] for lane in chosen[:-1]) < free
        # It stops for want of slots, or of lanes.
        assert sum(slots[lane] for lane in chosen) >= free or len(chosen) == len(slots)

    @given(PAIRS, st.integers(0, 40))
    def test_keeps_the_order_of_each_pair_and_serves_pairs_alike(self, pairs: dict[str, list[int]], free: int) -> None:
        chosen = choose(named(pairs), free)
        served = {name: [place for pair, place in chosen if pair == name] for name in pairs}
        for places in served.values():
            assert places == list(range(len(places)))
        most = max((len(places) for places in served.values()), default=0)
        for name, places in served.items():
            assert len(places) >= min(len(pairs[name]), most - 1)


class TestBundlingTurns:
    def test_fills_a_bundle_up_to_its_number_of_turns(self) -> None:
        assert bundles([(n, 1) for n in range(5)], turns_each=2, slots_each=100) == [[0, 1], [2, 3], [4]]

    def test_never_gives_a_bundle_more_calls_than_a_worker_has_slots(self) -> None:
        assert bundles([("a", 3), ("b", 2), ("c", 4)], turns_each=50, slots_each=5) == [["a", "b"], ["c"]]

    def test_sends_a_turn_wider_than_a_worker_alone(self) -> None:
        assert bundles([("a", 1), ("wide", 9), ("b", 1)], turns_each=50, slots_each=4) == [["a"], ["wide"], ["b"]]

    def test_of_nothing_is_nothing(self) -> None:
        assert bundles([], turns_each=50, slots_each=4) == []

    @given(LANES, st.integers(1, 6), st.integers(1, 8))
    def test_loses_and_reorders_nothing(self, slots: list[int], turns_each: int, slots_each: int) -> None:
        packed = bundles(list(enumerate(slots)), turns_each=turns_each, slots_each=slots_each)
        assert [turn for bundle in packed for turn in bundle] == list(range(len(slots)))
        for bundle in packed:
            assert 0 < len(bundle) <= turns_each
            assert len(bundle) == 1 or sum(slots[turn] for turn in bundle) <= slots_each


class TestFittingLanesIntoALimitedRoom:
    def test_the_last_one_gets_what_is_left(self) -> None:
        assert fit([("a", 2), ("b", 2), ("c", 2)], 3) == [("a", 2), ("b", 1)]

    def test_one_call_for_a_pair_that_has_to_prove_itself(self) -> None:
        assert fit([("a", 4), ("b", 4)], 1) == [("a", 1)]
