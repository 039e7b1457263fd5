"""The highest time seen, and what a clock that runs behind it may do."""

from __future__ import annotations

import pytest

from sendq.clock import SECOND
from sendq.rules.preflight import CLOCK_TOLERANCE, KEY_MAX_AGE, trusted_age
from tests.support.ledger import START, Clock
from worker.clocks.high_water import BELIEVED, HighWaterMark

HOUR_S = 3600


def http_date(at: int) -> str:
    from email.utils import formatdate

    return formatdate(at / SECOND, usegmt=True)


class TestTheHighestTime:
    def test_only_grows(self) -> None:
        clock = Clock()
        highest = HighWaterMark(clock)
        assert highest() == START
        clock.advance(-HOUR_S)
        assert highest() == START
        assert highest.clock_is_behind

    def test_takes_in_what_others_have_seen(self) -> None:
        highest = HighWaterMark(Clock())
        highest.note(START + HOUR_S * SECOND)
        assert highest() == START + HOUR_S * SECOND
        assert highest.clock_is_behind

    def test_takes_in_what_the_api_says(self) -> None:
        highest = HighWaterMark(Clock())
        highest.note_date(http_date(START + HOUR_S * SECOND))
        assert highest.clock_is_behind

    @pytest.mark.parametrize("date", ["", "soon", "Thu, 99 Foo 2026", http_date(START + BELIEVED + 2 * SECOND)])
    def test_believes_no_nonsense(self, date: str) -> None:
        highest = HighWaterMark(Clock())
        highest.note_date(date)
        assert highest() == START

    def test_bears_clocks_that_differ_a_little(self) -> None:
        highest = HighWaterMark(Clock())
        highest.note(START + CLOCK_TOLERANCE)
        assert not highest.clock_is_behind
        highest.note(START + CLOCK_TOLERANCE + 1)
        assert highest.clock_is_behind


class TestAKeysAge:
    def test_is_trusted_while_the_clock_is_right(self) -> None:
        assert trusted_age(KEY_MAX_AGE, now=START, highest=START + CLOCK_TOLERANCE) == KEY_MAX_AGE

    def test_is_trusted_no_more_while_the_clock_runs_behind(self) -> None:
        assert trusted_age(KEY_MAX_AGE, now=START, highest=START + CLOCK_TOLERANCE + 1) == 0
