"""The warm-up of a new account: a limit of messages a day that grows. Pure.

Providers judge an account by what it has sent: Google asks bulk senders to begin with a low volume and to increase it
slowly ("Email sender guidelines"), and Nylas to send no more than 700 messages a day from one grant ("Improving email
deliverability"). Neither gives a schedule. Ours begins with 20 a day and sends a fifth more each day, which takes 20
days to 700, as long as guides for senders advise (three to four weeks).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from sendq.clock import SECOND, Micros
from sendq.errors import InvalidArgument, Problem

DAY: Micros = 24 * 60 * 60 * SECOND

# Twice as much as on the day before is no slow increase, and less than a hundredth more takes a year.
GROWTH = (1.01, 2.0)

# The daily limit while a warm-up cannot be read, since a newer version wrote it: the first of the default one. Workers
# of that version give the rest.
UNREADABLE_LIMIT = 20

# More a day than any provider lets one account send.
MOST = 100_000


@dataclass(frozen=True, slots=True)
class WarmUp:
    """``WarmUp(first=20, growth=1.2, most=700)``: 20 messages within 24 hours, each day a fifth more, up to 700.

    Once the limit has reached ``most``, the warm-up is over and the account has no such limit any more.

    Raises:
        InvalidArgument: (a ``ValueError``) lists every problem with its field.
    """

    first: int = 20
    growth: float = 1.2
    most: int = 700

    def __post_init__(self) -> None:
        first: object = self.first
        growth: object = self.growth
        most: object = self.most
        problems = []
        if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first < MOST:
            problems.append(Problem("first", f"is not an integer from 1 to {MOST - 1:,}", "pass one like 20"))
        least, greatest = GROWTH
        if isinstance(growth, bool) or not isinstance(growth, int | float) or not least <= growth <= greatest:
            problems.append(Problem("growth", f"is not a number from {least} to {greatest}", "pass one like 1.2"))
        if isinstance(most, bool) or not isinstance(most, int) or not 1 < most <= MOST:
            problems.append(Problem("most", f"is not an integer from 2 to {MOST:,}", "pass one like 700"))
        if not problems and self.most <= self.first:
            problems.append(Problem("most", "is not more than first", "pass what the account sends in the end"))
        if problems:
            raise InvalidArgument(problems)

    def __str__(self) -> str:
        return f"{self.first} a day, {self.growth:g} times as many each day, up to {self.most}"

    def limit(self, day: int) -> int | None:
        """The messages of a day, counted from 0; None: it is over."""
        limit = float(self.first)
        for _ in range(day):
            if limit >= self.most:
                return None
            limit *= self.growth
        return None if limit >= self.most else int(limit)


def written(warm_up: WarmUp, began_at: Micros) -> str:
    """A warm-up that began then, as a lane has it."""
    return json.dumps([began_at, warm_up.first, warm_up.growth, warm_up.most], separators=(",", ":"))


@lru_cache(maxsize=1024)
def read_warm_up(stored: str) -> tuple[WarmUp, Micros]:
    """A warm-up as a lane has it, and when it began. Raises ``ValueError`` or ``TypeError``: it cannot be read."""
    began_at, first, growth, most = json.loads(stored)
    if isinstance(began_at, bool) or not isinstance(began_at, int):
        raise InvalidArgument([Problem("began_at", "is not a time", "end the warm-up, and begin it again")])
    return WarmUp(first, growth, most), began_at


def readable_warm_up(stored: str) -> tuple[WarmUp, Micros] | None:
    """As `read_warm_up`; None: a newer version wrote it."""
    try:
        return read_warm_up(stored)
    except (ValueError, TypeError):  # not JSON, another shape, or other values
        return None


def daily_limit(stored: str | None, *, now: Micros, daily: int | None = None) -> int | None:
    """How many messages an account may send within 24 hours now; ``daily``: at most in any case; None: no limit."""
    if stored is None:
        return daily
    found = readable_warm_up(stored)
    limit: int | None = UNREADABLE_LIMIT
    if found is not None:
        warm_up, began_at = found
        limit = warm_up.limit(max(0, now - began_at) // DAY)
    return min((one for one in (limit, daily) if one is not None), default=None)


def days_until(stored: str, number: int, *, now: Micros, daily: int | None) -> int:
    """On which day from now on the account's message of this number is sent, if only its limits delay it."""
    days = 0
    while (limit := daily_limit(stored, now=now + days * DAY, daily=daily)) is not None and number > limit:
        if limit == daily or readable_warm_up(stored) is None:  # it does not grow any more
            return days + (number - 1) // limit
        number -= limit
        days += 1
    return days
