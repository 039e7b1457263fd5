"""When the loops of a worker go round."""

from __future__ import annotations

import time

import pytest

from tests.support.waiting import LIMIT_S, eventually
from worker.processes.periodic_loop import PeriodicLoop, latest, until_next

EVERY_S = 0.05


class Rounds(PeriodicLoop):
    """A loop that notes when its rounds were due, and when they began."""

    def __init__(self) -> None:
        super().__init__("rounds", every_s=EVERY_S)
        self.seen: list[tuple[float, float]] = []

    def run_once(self) -> None:
        self.seen.append((self.due_at, time.monotonic()))


class TestTheNextRound:
    @pytest.mark.parametrize("at", [0.0, 0.3, 7.75, 1_234.5])
    def test_is_at_the_same_moment_for_all_whenever_they_began(self, at: float) -> None:
        seldom = at + until_next(1.0, at)
        assert seldom == int(at) + 1
        assert seldom % 0.5 == 0  # a moment of those that come twice as often

    def test_is_never_at_once(self) -> None:
        assert until_next(0.5, 3.0) == 0.5


class TestWhenARoundIsDue:
    @pytest.mark.parametrize("at", [0.0, 0.3, 7.75, 1_234.5])
    def test_is_the_last_moment_of_all_loops(self, at: float) -> None:
        assert latest(1.0, at) == int(at)

    def test_is_such_a_moment_before_it_began(self) -> None:
        loop = Rounds()
        loop.start()
        try:
            eventually(lambda: len(loop.seen) >= 3, "three rounds")
        finally:
            loop.stop(LIMIT_S)
        for due_at, began_at in loop.seen:
            assert due_at <= began_at
            assert round(due_at / EVERY_S) * EVERY_S == pytest.approx(due_at, rel=0, abs=1e-6)

    def test_is_now_for_one_by_itself(self) -> None:
        before, loop = time.monotonic(), Rounds()
        loop.run_once()
        ((due_at, began_at),) = loop.seen
        assert before <= due_at <= began_at
