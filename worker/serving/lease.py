"""The worker's right to make calls: it is valid for a while after each beat that the ledger has committed.

It expires before any rescuer can declare this worker dead (`worker.leading.rescuer`), so that no call of a job that is
taken back is still about to begin. Both clocks must agree: the monotonic clock stops while the machine is suspended,
and the wall clock jumps when it is set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sendq.clock import SECOND, Clock


@dataclass(slots=True)
class Lease:
    """Renewed by beats; checked directly before each call."""

    holds_s: float
    monotonic: Callable[[], float]
    wall: Clock
    _until: float = float("-inf")
    _wall_until: float = float("-inf")

    def begin(self) -> tuple[float, int]:
        """The time before a beat is written, from which the lease counts (not from when the commit returns)."""
        return self.monotonic(), self.wall()

    def renew(self, began: tuple[float, int]) -> None:
        """Renew the lease after the beat that began at ``began`` was committed."""
        monotonic, wall = began
        self._until = monotonic + self.holds_s
        self._wall_until = wall + self.holds_s * SECOND

    def age(self) -> float:
        """Seconds since the last beat that was committed began; infinite before the first and after a loss."""
        return self.monotonic() - (self._until - self.holds_s)

    def lose(self) -> None:
        """End the lease now: this worker was declared dead."""
        self._until = self._wall_until = float("-inf")

    def holds(self) -> bool:
        """Whether a call may begin now."""
        return self.monotonic() < self._until and self.wall() < self._wall_until
