"""What one client may take: requests per second of a token, failed logins of an address, memory of all bodies."""

from __future__ import annotations

import time
from collections.abc import Callable

from sendq.web.attempts import Attempts


class Rate:
    """A token bucket for each token: ``per_s`` requests a second, and twice as many at once. In one process."""

    def __init__(self, per_s: float, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._most, self._now = per_s, max(1.0, 2 * per_s), now
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and since when

    def take(self, token_id: str) -> float:
        """Count a request; returns how many seconds to wait before one is allowed: 0, this one is."""
        now = self._now()
        left, since = self._buckets.get(token_id, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_s)
        allowed = left >= 1
        self._buckets[token_id] = (left - allowed, now)
        return 0.0 if allowed else (1 - left) / self._per_s


class FailedLogins:
    """Requests without a valid token, by address. A valid token is accepted however many others have failed: its secret
    cannot be guessed, and behind a proxy or NAT many clients have one address.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._attempts = Attempts(now=now)

    def count(self, address: str) -> float:
        """Count one; returns how many seconds the address has to wait: 0, it has not failed often yet."""
        return self._attempts.begin(address, address)


class Budget:
    """Bytes of request bodies that are kept at the same time."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> bool:
        """Whether there is room for so many more."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give_back(self, size: int) -> None:
        """They are no longer kept."""
        self.left += size
