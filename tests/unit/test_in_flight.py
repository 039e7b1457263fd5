"""The register of the turns in a process."""

from __future__ import annotations

import threading
from uuid import UUID

import pytest

from tests.support.waiting import LIMIT_S
from worker.serving.in_flight import InFlight

NAME = (UUID(int=1), 7)


class TestATurn:
    def test_is_registered_while_it_is_being_claimed(self) -> None:
        turns = InFlight()
        with turns.claiming([NAME]):
            assert NAME in turns
        assert NAME not in turns

    def test_that_was_claimed_stays_until_it_is_removed(self) -> None:
        turns = InFlight()
        with turns.claiming([NAME]):
            turns.keep([NAME])
        assert NAME in turns
        turns.remove(NAME)
        assert NAME not in turns

    def test_is_kept_when_its_message_comes_a_second_time_and_claims_nothing(self) -> None:
        turns = InFlight()
        with turns.claiming([NAME]):
            with turns.claiming([NAME]):
                turns.keep([NAME])
            assert NAME in turns
        assert NAME in turns


class TestACheckRequest:
    def test_is_taken_once(self) -> None:
        turns = InFlight()
        assert not turns.take_check_request()
        turns.request_check()
        assert turns.take_check_request()
        assert not turns.take_check_request()

    def test_follows_the_removal_of_a_lost_turn(self) -> None:
        turns = InFlight()
        turns.keep([NAME])
        turns.remove(NAME, lost=True)
        assert turns.take_check_request()


def test_waiting_for_claims_ends_with_the_last_of_them() -> None:
    turns = InFlight()
    entered, leave = threading.Event(), threading.Event()

    def claim() -> None:
        with turns.claiming([NAME]):
            entered.set()
            leave.wait(LIMIT_S)

    claimer = threading.Thread(target=claim)
    claimer.start()
    assert entered.wait(LIMIT_S)
    turns.wait_for_claims(0)
    assert NAME in turns
    leave.set()
    turns.wait_for_claims(10)
    assert NAME not in turns
    claimer.join(LIMIT_S)


def test_an_exception_ends_a_claim_too() -> None:
    turns = InFlight()
    with pytest.raises(RuntimeError), turns.claiming([NAME]):
        raise RuntimeError
    assert NAME not in turns
