"""Where the dispatcher's scans begin. Pure.

A row that was changed or deleted stays in its index for as long as any other connection has an old snapshot (a dump, a
forgotten transaction), and such rows accumulate exactly where the dispatcher looks: at the lowest id, at the earliest
time. So a scan begins where the last one found a live row, less a lag for transactions that commit late. That is only
an optimisation: at intervals it scans everything, and finds rows that were added below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sendq.clock import SECOND, Micros

# A transaction that commits later than this after it took its ids and times is found by the next full scan.
LAG: Micros = 10 * SECOND

WHOLE_EVERY: Micros = 30 * SECOND

Pair = tuple[str, str]


class Floors:
    """Below which ids and times only dead rows are known to be, by kind; zero: unknown."""

    def __init__(self) -> None:
        self.wake_id = 0
        self.turn_at: Micros = 0
        self.next_at: dict[Pair, Micros] = {}
        self._taken: deque[tuple[Micros, int]] = deque()
        self._whole_at: Micros = 0

    def begin(self, now: Micros) -> None:
        """Begin a round. At intervals, and on the first round after the clock was set back, it scans everything: floors
        taken at a time after ``now`` mean nothing.
        """
        set_back = now < self._whole_at - WHOLE_EVERY
        if set_back:
            self._taken.clear()
        if set_back or now >= self._whole_at:
            self._whole_at = now + WHOLE_EVERY
            self.wake_id, self.turn_at = 0, 0
            self.next_at.clear()

    def woken(self, ids: Iterable[int], now: Micros) -> None:
        """These wake rows were deleted. Lower ids may still be committed, but not for long."""
        highest = max(ids, default=None)
        if highest is not None:
            self._taken.append((now, highest))
        while self._taken and self._taken[0][0] <= now - LAG:
            self.wake_id = max(self.wake_id, self._taken.popleft()[1])

    def first_lane(self, pair: Pair, next_at: Micros | None, now: Micros) -> None:
        """The first lane of a pair wants its turn then (None: none does). Later writes have later times."""
        self.next_at[pair] = now - LAG if next_at is None else min(next_at, now - LAG)

    def first_turn(self, turn_at: Micros | None, now: Micros) -> None:
        """The oldest open turn was opened then (None: none is open)."""
        self.turn_at = now - LAG if turn_at is None else min(turn_at, now - LAG)
