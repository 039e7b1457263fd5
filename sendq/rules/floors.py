"""Where the dispatcher's scans begin. Pure.

A row that was changed or deleted stays in its index for as long as any other connection has an old snapshot (a dump, a
forgotten transaction), and such rows gather exactly where the dispatcher looks: at the lowest id, at the earliest time.
So it begins where it last found something alive, less a lag for transactions that commit late. That is a shortcut, not
a truth: every so often it looks at everything, and finds what came in below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from sendq.clock import SECOND, Micros

# A transaction that commits later than this after it took its ids and times is found by the next whole look.
LAG: Micros = 10 * SECOND

WHOLE_EVERY: Micros = 30 * SECOND

Pair = tuple[str, str]


class Floors:
    """What is known to be dead, by kind; zero: nothing is."""

    def __init__(self) -> None:
        self.wake_id = 0
        self.turn_at: Micros = 0
        self.next_at: dict[Pair, Micros] = {}
        self._taken: deque[tuple[Micros, int]] = deque()
        self._whole_at: Micros = 0

    def begin(self, now: Micros) -> None:
        """A round begins; every so often it is one that looks at everything, and so is the first after the clock was
        set back: what was taken "later" than now says nothing.
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
        """The first lane of a pair wants its turn then (None: none does). Whoever writes later writes later times."""
        self.next_at[pair] = now - LAG if next_at is None else min(next_at, now - LAG)

    def first_turn(self, turn_at: Micros | None, now: Micros) -> None:
        """The oldest open turn was opened then (None: none is open)."""
        self.turn_at = now - LAG if turn_at is None else min(turn_at, now - LAG)
