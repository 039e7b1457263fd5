"""Which turns of a process a hold stops before they ask the ledger."""

from __future__ import annotations

import pytest

from sendq.clock import Micros
from worker.serving.held_pairs import HeldPairs

HELD_AT: Micros = 1_780_000_000_000_000
PAIR = ("app", "google")


def held(scope: str, *, recorded: bool = True) -> HeldPairs:
    pairs = HeldPairs(lambda: HELD_AT)
    pairs.hold(PAIR, scope, recorded=recorded)
    return pairs


class TestATurn:
    @pytest.mark.parametrize("scope", ["provider", "application"])
    def test_may_call_only_if_it_was_offered_after_the_hold(self, scope: str) -> None:
        pairs = held(scope)
        assert not pairs.allow(PAIR, HELD_AT - 1)
        assert pairs.allow(PAIR, HELD_AT + 1)

    @pytest.mark.parametrize("scope", ["provider", "application"])
    def test_may_not_call_if_it_was_offered_in_the_very_microsecond_of_the_hold(self, scope: str) -> None:
        assert not held(scope).allow(PAIR, HELD_AT)

    def test_may_not_call_before_the_ledger_knows_of_the_hold(self) -> None:
        assert not held("provider", recorded=False).allow(PAIR, HELD_AT + 60_000_000)

    def test_of_another_provider_is_stopped_by_a_hold_of_the_application_alone(self) -> None:
        other = ("app", "imap")
        assert held("provider").allow(other, HELD_AT - 1)
        assert not held("application").allow(other, HELD_AT - 1)

    def test_may_call_after_a_hold_that_a_clock_made_which_was_ahead(self) -> None:
        now = [HELD_AT]
        pairs = HeldPairs(lambda: now[0])
        pairs.hold(PAIR, "provider", recorded=True)
        now[0] = HELD_AT - 300_000_000
        assert not pairs.allow(PAIR, now[0] - 1)
        assert pairs.allow(PAIR, now[0] + 1)

    def test_of_another_application_may_call(self) -> None:
        assert held("application").allow(("another", "google"), HELD_AT - 1)
