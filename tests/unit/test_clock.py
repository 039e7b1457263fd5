"""Time in the ledger: whole microseconds, in UTC, there and back without loss."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from sendq import clock

MOMENTS = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 - the strategy puts the zone on
    max_value=datetime(2300, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-11))]),
)


class TestMicros:
    @given(MOMENTS)
    def test_come_back_as_the_same_instant(self, moment: datetime) -> None:
        assert clock.moment(clock.micros(moment)) == moment

    @given(MOMENTS, MOMENTS)
    def test_sort_as_the_instants_do(self, one: datetime, other: datetime) -> None:
        assert (clock.micros(one) < clock.micros(other)) == (one < other)

    def test_count_from_1970(self) -> None:
        assert clock.micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
        assert clock.micros(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005

    def test_before_1970_are_negative_and_exact(self) -> None:
        assert clock.micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


class TestNow:
    def test_is_the_wall_clock(self) -> None:
        before = time.time_ns() // 1_000
        assert before <= clock.now() <= time.time_ns() // 1_000


class TestSeconds:
    def test_become_whole_microseconds(self) -> None:
        assert clock.seconds(1.5) == 1_500_000
        assert clock.seconds(0.000_000_4) == 0
        assert isinstance(clock.seconds(2), int)
