"""Where the dispatcher's scans begin."""

from __future__ import annotations

from sendq.clock import SECOND
from sendq.rules.floors import LAG, WHOLE_EVERY, Floors

NOW = 1_780_000_000 * SECOND
PAIR = ("default", "google")


def started() -> Floors:
    floors = Floors()
    floors.begin(NOW)
    return floors


class TestTheFloorOfWakeRows:
    def test_stays_low_while_lower_ids_may_still_be_committed(self) -> None:
        floors = started()
        floors.woken([5, 9, 7], NOW)
        floors.woken([], NOW + LAG - 1)
        assert floors.wake_id == 0

    def test_is_the_highest_id_that_was_taken_a_while_ago(self) -> None:
        floors = started()
        floors.woken([5, 9, 7], NOW)
        floors.woken([12], NOW + LAG)
        assert floors.wake_id == 9


class TestTheFloorOfLanes:
    def test_is_the_first_that_wants_a_turn(self) -> None:
        floors = started()
        floors.first_lane(PAIR, NOW - 2 * LAG, NOW)
        assert floors.next_at == {PAIR: NOW - 2 * LAG}

    def test_leaves_room_for_those_who_commit_late(self) -> None:
        floors = started()
        for first in (None, NOW + SECOND):
            floors.first_lane(PAIR, first, NOW)
            assert floors.next_at == {PAIR: NOW - LAG}


class TestTheFloorOfTurns:
    def test_is_the_oldest_open_one(self) -> None:
        floors = started()
        floors.first_turn(NOW - 3 * LAG, NOW)
        assert floors.turn_at == NOW - 3 * LAG
        floors.first_turn(None, NOW)
        assert floors.turn_at == NOW - LAG


def test_every_so_often_a_round_looks_at_everything() -> None:
    floors = started()
    floors.woken([5], NOW)
    floors.woken([], NOW + LAG)
    floors.first_lane(PAIR, None, NOW)
    floors.first_turn(None, NOW)
    floors.begin(NOW + WHOLE_EVERY - 1)
    assert (floors.wake_id, floors.turn_at, floors.next_at) == (5, NOW - LAG, {PAIR: NOW - LAG})
    floors.begin(NOW + WHOLE_EVERY)
    assert (floors.wake_id, floors.turn_at, floors.next_at) == (0, 0, {})
