"""Limits attempts to sign in, by name and by address. Failures are forgotten after a while."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

WINDOW_S = 300.0

# Failures within the window after which further attempts are refused: of one name from one address, from one address,
# and of one name from anywhere. The last is high: else anybody could keep a person from signing in.
MOST = {"both": 5, "address": 20, "name": 50}

REMEMBERED = 10_000  # names and addresses; the oldest are forgotten first


class LoginAttempts:
    """Attempts of the last minutes that failed, or are being checked."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._failures: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()

    def begin(self, name: str, address: str) -> float:
        """Count an attempt as failed, before it is checked: many at once are counted too.

        Returns how long to wait until one is allowed, in seconds; 0: this one is.
        """
        keys = _keys(name, address)
        wait_s = max(self._wait_s(key) for key in keys)
        if not wait_s:
            for key in keys:
                self._failures.setdefault(key, deque(maxlen=max(MOST.values()))).append(self._now())
                self._failures.move_to_end(key)
            while len(self._failures) > REMEMBERED:
                self._failures.popitem(last=False)
        return wait_s

    def succeeded(self, name: str, address: str) -> None:
        """The last attempt was right, and the earlier failures of this name from this address are forgotten."""
        both, *others = _keys(name, address)
        self._failures.pop(both, None)
        for key in others:
            if failures := self._failures.get(key):
                failures.pop()

    def _wait_s(self, key: tuple[str, ...]) -> float:
        failures, most = self._failures.get(key), MOST[key[0]]
        if failures is None:
            return 0.0
        since = self._now() - WINDOW_S
        while failures and failures[0] <= since:
            failures.popleft()
        if not failures:
            del self._failures[key]
        return failures[-most] - since if len(failures) >= most else 0.0


def _keys(name: str, address: str) -> tuple[tuple[str, ...], ...]:
    place = place_of(address)
    return ("both", name, place), ("address", place), ("name", name)


def place_of(address: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits, all of which one client may use."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(known, IPv6Address):
        return str(known)
    return str(known.ipv4_mapped or IPv6Network((known, 64), strict=False))
