"""When failures of several grants count as an outage of their application."""

from __future__ import annotations

from uuid import UUID

from worker.serving.outages import Outages

A, B = UUID(int=1), UUID(int=2)


class Watch:
    """A clock that only moves by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def outages(number: int = 3, watch: Watch | None = None) -> Outages:
    return Outages(number=number, window_s=60, monotonic=watch or Watch())


class TestAnOutage:
    def test_is_as_many_failures_in_a_row_as_are_set(self) -> None:
        seen = outages()
        assert [seen.failed("x", lane) for lane in (A, B, A, B)] == [False, False, True, True]

    def test_concerns_more_than_one_grant(self) -> None:
        seen = outages()
        assert [seen.failed("x", A) for _ in range(5)] == [False] * 5
        assert seen.failed("x", B)

    def test_is_over_with_the_first_success(self) -> None:
        seen = outages()
        for lane in (A, B, A):
            seen.failed("x", lane)
        seen.succeeded("x")
        assert [seen.failed("x", lane) for lane in (A, B)] == [False, False]

    def test_is_of_one_application(self) -> None:
        seen = outages()
        assert [seen.failed("x", A), seen.failed("y", B), seen.failed("x", B)] == [False] * 3
        seen.succeeded("y")
        assert seen.failed("x", A)

    def test_counts_no_failures_of_long_ago(self) -> None:
        watch = Watch()
        seen = outages(watch=watch)
        seen.failed("x", A)
        watch.at += 60
        assert [seen.failed("x", lane) for lane in (B, A)] == [False, False]
        assert seen.failed("x", B)
