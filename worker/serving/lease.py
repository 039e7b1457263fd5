"""The worker's right to make calls: it holds for a while after each beat that the ledger has committed.

It ends before anybody else can take this worker for dead (`worker.leading.rescuer`), so that what the rescuer takes
back is not on its way to the wire. Two clocks must agree: the monotonic one stands still while a machine is suspended,
the wall clock jumps when it is set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sendq.clock import SECOND, Clock


@dataclass(slots=True)
class Lease:
    """Renewed by beats; asked directly before each call."""

    holds_s: float
    monotonic: Callable[[], float]
    wall: Clock
    _until: float = float("-inf")
    _wall_until: float = float("-inf")

    def begin(self) -> tuple[float, int]:
        """The moment before a beat is written: the lease counts from here, not from the commit's answer."""
        return self.monotonic(), self.wall()

    def renew(self, began: tuple[float, int]) -> None:
        """A beat that began then is committed."""
        monotonic, wall = began
        self._until = monotonic + self.holds_s
        self._wall_until = wall + self.holds_s * SECOND

    def age(self) -> float:
        """Seconds since the last beat that was committed began; infinite before the first and after a loss."""
        return self.monotonic() - (self._until - self.holds_s)

    def lose(self) -> None:
        """Somebody has taken this worker for dead."""
        self._until = self._wall_until = float("-inf")

    def holds(self) -> bool:
        """Whether a call may begin now."""
        return self.monotonic() < self._until and self.wall() < self._wall_until
