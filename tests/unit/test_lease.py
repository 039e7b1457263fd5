"""The worker's right to make calls."""

from __future__ import annotations

import pytest

from sendq.clock import SECOND
from worker.serving.heartbeat import lease_s
from worker.serving.lease import Lease


class Clocks:
    """A monotonic clock (seconds) and a wall clock (microseconds) that move when told."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, 1_000 * SECOND


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def lease(clocks: Clocks) -> Lease:
    return Lease(6.0, lambda: clocks.monotonic, lambda: clocks.wall)


def test_does_not_hold_before_the_first_beat(lease: Lease) -> None:
    assert not lease.holds()


def test_counts_from_before_the_beat_was_written_not_from_its_answer(lease: Lease, clocks: Clocks) -> None:
    began = lease.begin()
    clocks.monotonic += 5.9
    lease.renew(began)
    assert lease.holds()
    clocks.monotonic += 0.2
    assert not lease.holds()


def test_ends_by_the_wall_clock_too_for_a_suspended_machine_stops_the_other(lease: Lease, clocks: Clocks) -> None:
    lease.renew(lease.begin())
    clocks.wall += 7 * SECOND
    assert not lease.holds()


def test_is_over_at_once_for_a_worker_that_was_taken_for_dead(lease: Lease) -> None:
    lease.renew(lease.begin())
    lease.lose()
    assert not lease.holds()


@pytest.mark.parametrize(("stale_after_s", "holds_s"), [(8.0, 6.0), (30.0, 28.0), (1.6, 1.2)])
def test_ends_before_anybody_may_declare_its_worker_dead(stale_after_s: float, holds_s: float) -> None:
    assert lease_s(stale_after_s) == pytest.approx(holds_s)
