"""What must hold directly before a call."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sendq.clock import SECOND, Micros
from sendq.rules.preflight import CLOCK_TOLERANCE, DEATHS_TOLERATED, KEY_MAX_AGE, objection, trusted_age
from sendq.rules.states import Event

NOW = 1_000_000 * SECOND
OLD_KEY = NOW - KEY_MAX_AGE
YOUNG_KEY = OLD_KEY + 1


@dataclass(frozen=True)
class Job:
    operation: str = "send"
    expires_at: Micros | None = None
    key_at: Micros | None = None
    doubt_at: Micros | None = None
    deaths: int = 0


class TestASend:
    def test_that_never_went_out_may_go(self) -> None:
        assert objection(Job(), now=NOW) is None

    def test_in_doubt_may_go_again_while_its_key_is_young(self) -> None:
        assert objection(Job(key_at=YOUNG_KEY, doubt_at=NOW - 1), now=NOW) is None

    def test_in_doubt_does_not_go_again_when_its_key_is_old(self) -> None:
        assert objection(Job(key_at=OLD_KEY, doubt_at=NOW - 1), now=NOW) is Event.DOUBT

    def test_in_doubt_without_a_key_does_not_go_again(self) -> None:
        assert objection(Job(doubt_at=NOW - 1), now=NOW) is Event.DOUBT

    def test_whose_outcomes_are_all_known_may_go_whatever_the_age_of_its_key(self) -> None:
        assert objection(Job(key_at=OLD_KEY), now=NOW) is None

    def test_past_its_time_expires(self) -> None:
        assert objection(Job(expires_at=NOW), now=NOW) is Event.EXPIRE

    def test_before_its_time_does_not(self) -> None:
        assert objection(Job(expires_at=NOW + 1), now=NOW) is None

    def test_past_its_time_that_may_have_gone_out_is_in_doubt_not_expired(self) -> None:
        assert objection(Job(expires_at=NOW, key_at=YOUNG_KEY, doubt_at=NOW - 1), now=NOW) is Event.DOUBT

    def test_obeys_a_shorter_age_of_keys(self) -> None:
        job = Job(key_at=NOW - 10, doubt_at=NOW - 10)
        assert objection(job, now=NOW, key_max_age=10) is Event.DOUBT
        assert objection(job, now=NOW, key_max_age=11) is None


class TestAModification:
    @pytest.mark.parametrize("doubt_at", [None, NOW - 1])
    def test_may_go_again_whatever_became_of_it(self, doubt_at: Micros | None) -> None:
        assert objection(Job("modify", key_at=OLD_KEY, doubt_at=doubt_at), now=NOW) is None

    @pytest.mark.parametrize("doubt_at", [None, NOW - 1])
    def test_past_its_time_expires(self, doubt_at: Micros | None) -> None:
        assert objection(Job("modify", expires_at=NOW, doubt_at=doubt_at), now=NOW) is Event.EXPIRE


class TestAJobBesideWhichProcessesDied:
    @pytest.mark.parametrize("operation", ["send", "modify"])
    @pytest.mark.parametrize("deaths", range(DEATHS_TOLERATED + 1))
    def test_may_go_while_only_workers_did(self, operation: str, deaths: int) -> None:
        assert objection(Job(operation, deaths=deaths), now=NOW) is None

    @pytest.mark.parametrize("operation", ["send", "modify"])
    def test_is_given_up_once_it_killed_a_process_of_its_own(self, operation: str) -> None:
        assert objection(Job(operation, deaths=DEATHS_TOLERATED + 1), now=NOW) is Event.GIVE_UP

    def test_is_in_doubt_instead_while_it_may_have_gone_out(self) -> None:
        job = Job(key_at=YOUNG_KEY, doubt_at=NOW - 1, deaths=DEATHS_TOLERATED + 1)
        assert objection(job, now=NOW) is Event.DOUBT


class TestTheAgeOfAKey:
    def test_leaves_a_quarter_of_the_hour_to_clocks_and_slow_requests(self) -> None:
        assert KEY_MAX_AGE == 45 * 60 * SECOND


class TestAClockThatWasSetBack:
    def test_trusts_no_key_that_was_first_used_ahead_of_it(self) -> None:
        ahead = NOW + CLOCK_TOLERANCE
        assert objection(Job(key_at=ahead, doubt_at=ahead), now=NOW) is None
        assert objection(Job(key_at=ahead + 1, doubt_at=ahead + 1), now=NOW) is Event.DOUBT

    def test_makes_every_open_key_count_as_expired(self) -> None:
        age = trusted_age(KEY_MAX_AGE, now=NOW, highest=NOW + CLOCK_TOLERANCE + 1)
        assert objection(Job(key_at=NOW, doubt_at=NOW), now=NOW, key_max_age=age) is Event.DOUBT
        assert objection(Job(), now=NOW, key_max_age=age) is None  # nothing speaks against a first request
