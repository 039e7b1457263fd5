"""What one client may take: requests per second, at once and in memory of a token, failed logins of an address."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from sendq.api.problems import TRY_AGAIN_S, Refused
from sendq.web.login_attempts import REMEMBERED, WINDOW_S, LoginAttempts, place_of


class Rate:
    """A token bucket for each token: ``per_s`` requests per second, in this process; bursts of twice as many."""

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
        self._attempts, self._now = LoginAttempts(now=now), now
        self._logged: OrderedDict[tuple[str, bool], float] = OrderedDict()

    def count(self, address: str) -> float:
        """Count one; returns how many seconds the address has to wait: 0, it has not failed often yet."""
        return self._attempts.begin(address, address)

    def is_news(self, address: str, *, limited: bool) -> bool:
        """Whether to log it: once for each address and window, and once more when the address is limited."""
        key, now = (place_of(address), limited), self._now()
        if now - self._logged.get(key, -WINDOW_S) < WINDOW_S:
            return False
        self._logged[key] = now
        self._logged.move_to_end(key)
        while len(self._logged) > REMEMBERED:
            self._logged.popitem(last=False)
        return True


class BodyMemory:
    """Bytes of request bodies that are kept at the same time: of all, and of each token, so that none takes all."""

    def __init__(self, most: int, *, each: int) -> None:
        self.left, self._each = most, each
        self._kept: Counter[str] = Counter()
        self.parsing = asyncio.Lock()  # of a large body: it takes a multiple of its bytes

    def take(self, size: int, token_id: str) -> bool:
        """Whether there is room for so many more."""
        if size > self.left or self._kept[token_id] + size > self._each:
            return False
        self.left -= size
        self._kept[token_id] += size
        return True

    def give_back(self, size: int, token_id: str) -> None:
        """They are no longer kept."""
        self.left += size
        self._kept[token_id] -= size
        if not self._kept[token_id]:
            del self._kept[token_id]


class Turns:
    """Operations at once: ``most`` of all, of which at most ``writes`` write, and ``each`` belong to one token.

    Of its large ones, a token runs one: they are work for the processor, and Python threads share one. Several would
    not end sooner, but each of the many short steps of another request would wait for every one of them.
    """

    def __init__(self, most: int, *, writes: int, each: int, wait_s: float) -> None:
        self._all, self._writes = asyncio.Semaphore(most), asyncio.Semaphore(writes)
        self._of_token = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, each))
        self._large = defaultdict[str, asyncio.Semaphore](partial(asyncio.Semaphore, 1))
        self._wait_s = wait_s

    @asynccontextmanager
    async def turn(self, token_id: str, *, writes: bool, large: bool = False) -> AsyncIterator[None]:
        """Waits for a turn, and ends it. Raises `Refused` if that takes too long."""
        needed = [self._of_token[token_id], *([self._writes] if writes else []), self._all]
        if large:  # first, so that those that wait for it have no turn of small ones
            needed.insert(0, self._large[token_id])
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._wait_s):
                    for one in needed:
                        await stack.enter_async_context(one)
            except TimeoutError:
                detail = "More requests wait than the server can answer now. Nothing was stored. Try again."
                raise Refused("unavailable", detail, again_s=TRY_AGAIN_S) from None
            yield
