"""When the loops of a worker go round."""

from __future__ import annotations

import pytest

from worker.processes.periodic_loop import until_next


class TestTheNextRound:
    @pytest.mark.parametrize("at", [0.0, 0.3, 7.75, 1_234.5])
    def test_is_at_the_same_moment_for_all_whenever_they_began(self, at: float) -> None:
        seldom = at + until_next(1.0, at)
        assert seldom == int(at) + 1
        assert seldom % 0.5 == 0  # a moment of those that come twice as often

    def test_is_never_at_once(self) -> None:
        assert until_next(0.5, 3.0) == 0.5
