"""Slots: how much load this process may take on, counted in calls, not in tasks.

A turn takes one slot for each call that it may have on the wire at the same time. A slow call gives up its slot and
counts against its provider's allowance for slow calls instead, so that accounts that hang cannot fill the process; when
the allowance is used up, it keeps its slot.
"""

from __future__ import annotations

import threading
from collections import Counter
from math import ceil

# Slots are scarce from this share in use; below 1, because turns take several at a time.
SCARCE = 0.9

# When slots are scarce, a call gives up its slot once it has lasted this many times as long as calls usually do, but
# not before the time that a call may take now and then on any machine.
UNUSUAL = 4.0
SHORTEST_S = 0.2

# The shortest time that a call takes.
QUICKEST_S = 0.001

# The number of calls assumed to fit into a turn before the first measurement.
FIT_AT_FIRST = 3

# Weight of the latest call in the moving average.
WEIGHT = 0.05


class Usual:
    """How long calls usually take, by provider. Used by one thread, except `fit_into`."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def ended(self, provider: str, seconds: float) -> None:
        """Take the duration of a call that was not slow into account."""
        for name in (provider, "*"):
            mean = self._means.get(name, seconds)
            self._means[name] = mean + (seconds - mean) * WEIGHT

    def patience(self, provider: str, *, most_s: float) -> float:
        """Seconds after which a call counts as slow when slots are scarce."""
        mean = self._means.get(provider, self._means.get("*", most_s))
        return min(most_s, max(SHORTEST_S, mean * UNUSUAL))

    def fit_into(self, seconds: float) -> int | None:
        """How many successive calls fit into ``seconds``; None before the first measurement. Thread-safe."""
        mean = self._means.get("*")
        return None if mean is None else ceil(seconds / max(mean, QUICKEST_S))


def jobs_to_load(fit: int | None, *, slots: int, most: int) -> int:
    """How many jobs to load for a turn of ``slots`` simultaneous calls: as many as it can begin, and a few more.

    A job that is loaded but not begun is wasted work: the lane's next turn loads it again.
    """
    return min(most, slots * ((FIT_AT_FIRST if fit is None else fit) + 1))


class Slots:
    """Thread-safe: Celery's threads take, the event loop gives back."""

    def __init__(self, capacity: int, *, slow_each: int) -> None:
        self.capacity, self._slow_each = capacity, slow_each
        self._used = 0
        self._slow: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Slots in use."""
        return self._used

    @property
    def scarce(self) -> bool:
        """Whether hardly any slots are free."""
        return self._used >= self.capacity * SCARCE

    @property
    def slow(self) -> int:
        """Calls that count against the allowances for slow calls."""
        with self._changed:
            return sum(self._slow.values())

    def take(self, slots: int, *, limit_s: float) -> bool:
        """Wait until ``slots`` are free and take them; False after ``limit_s`` seconds or `close`.

        A request for more than the whole capacity is granted as soon as no slot is in use, or it would wait for ever.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(slots), timeout=limit_s)
            taken = not self._closed and self._fits(slots)
            if taken:
                self._used += slots
            return taken

    def _fits(self, slots: int) -> bool:
        return self._used == 0 or self._used + slots <= self.capacity

    def close(self) -> None:
        """Grant no more slots, and end all waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give(self, slots: int) -> None:
        """Return slots."""
        with self._changed:
            self._used -= slots
            self._changed.notify_all()

    def slow_down(self, provider: str) -> bool:
        """Give up the slot of a slow call, if its provider's allowance is not used up; returns whether it did."""
        with self._changed:
            if self._slow[provider] >= self._slow_each:
                return False
            self._slow[provider] += 1
            self._used -= 1
            self._changed.notify_all()
            return True

    def slow_call_ended(self, provider: str) -> None:
        """End a call of the slow allowance: its turn takes the slot back, even if all slots are in use."""
        with self._changed:
            self._slow[provider] -= 1
            self._used += 1
