"""How many calls this process may take on: counted in calls, not in tasks.

A turn takes as many slots as it may have calls at once. A call that is slow gives its slot to others and counts
against an allowance of its provider instead, so that accounts that hang cannot fill the process; with the allowance
used up, it keeps its slot.
"""

from __future__ import annotations

import threading
from collections import Counter
from math import ceil

# Of the slots, so many are taken when there is hardly one left: turns take several at a time.
SCARCE = 0.9


# In a full house a call makes room once it has lasted this many times as long as calls usually do, but not within the
# time that any machine needs now and then.
UNUSUAL = 4.0
SHORTEST_S = 0.2

# No call is over sooner.
QUICKEST_S = 0.001

# How many calls a turn is thought to come to while no call has shown how long it takes.
FIT_AT_FIRST = 3

# What the latest call counts for in how long they usually take.
WEIGHT = 0.05


class Usual:
    """How long calls usually take, by provider. Used from one thread."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def ended(self, provider: str, seconds: float) -> None:
        """A call that was not slow has taken so long."""
        for name in (provider, "*"):
            mean = self._means.get(name, seconds)
            self._means[name] = mean + (seconds - mean) * WEIGHT

    def patience(self, provider: str, *, most_s: float) -> float:
        """After how many seconds a call is slow where slots are scarce."""
        mean = self._means.get(provider, self._means.get("*", most_s))
        return min(most_s, max(SHORTEST_S, mean * UNUSUAL))

    def fit_into(self, seconds: float) -> int | None:
        """How many calls one after another fit into a time; None: nothing is known yet. May be asked by any thread."""
        mean = self._means.get("*")
        return None if mean is None else ceil(seconds / max(mean, QUICKEST_S))


def jobs_to_load(fit: int | None, *, slots: int, most: int) -> int:
    """How many jobs of a lane a turn of ``slots`` calls at once should have in hand: what it comes to, and some more.

    Each job that is loaded and not begun was loaded in vain: the lane's next turn loads it again.
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
        """Slots that are taken."""
        return self._used

    @property
    def scarce(self) -> bool:
        """Whether hardly a slot is left."""
        return self._used >= self.capacity * SCARCE

    @property
    def slow(self) -> int:
        """Calls in the slow allowance."""
        with self._changed:
            return sum(self._slow.values())

    def take(self, slots: int, *, limit_s: float) -> bool:
        """Wait for room for ``slots`` and take it; False if there was none within the limit, or will be none.

        More than the whole capacity is taken as soon as nothing else is, or it would wait for ever.
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
        """There will be no more room; nobody waits for it any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give(self, slots: int) -> None:
        """Give slots back."""
        with self._changed:
            self._used -= slots
            self._changed.notify_all()

    def slow_down(self, provider: str) -> bool:
        """A call has become slow: it gives its slot back, if its provider's allowance has room."""
        with self._changed:
            if self._slow[provider] >= self._slow_each:
                return False
            self._slow[provider] += 1
            self._used -= 1
            self._changed.notify_all()
            return True

    def slow_call_ended(self, provider: str) -> None:
        """A call of the slow allowance is over. Its turn's slot, given away, is taken again, full house or not."""
        with self._changed:
            self._slow[provider] -= 1
            self._used += 1
