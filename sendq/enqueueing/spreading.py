"""The spread of a batch's due times, and what is wrong with windows and spreads of a call."""

from __future__ import annotations

from collections.abc import Callable, Sized
from datetime import datetime, timedelta
from typing import Any

from sendq.clock import Micros, micros, moment
from sendq.errors import Problem
from sendq.rules.spread import fraction, place_in, spread_over
from sendq.rules.windows import Window, first_opening

# A longer spread is a mistake, such as seconds taken for days.
LONGEST_SPREAD = timedelta(days=366)

_REMEDY = 'create one: Window("09:00-17:30", days="mon-fri", tz="Europe/Berlin")'


class Spread:
    """Gives each message of a call its due time: evenly over ``length``, in its window, with jitter.

    ``number``: of the messages, None if it is not known; ``chance``: random numbers from 0 to 1, excluded.
    """

    def __init__(self, length: Micros, number: int | None, chance: Callable[[], float]) -> None:
        self._length, self._number, self._chance = length, number, chance
        self._offset = 0.0 if number is not None else chance()
        self._until: Micros | None = None

    @property
    def until(self) -> Micros | None:
        """The latest end of the spreads of the messages so far; None: there were none."""
        return self._until

    def due_at(self, position: int, window: Window | None, begin: Micros) -> Micros:
        """When the message at this position of the call is due; the spread begins at ``begin``."""
        where = fraction(position, self._number, self._offset, self._chance)
        spans = spread_over(window, begin, self._length)
        self._until = max(self._until or 0, spans[-1][1])
        return place_in(spans, where)

    def problems(self, window: Window | None, begin: Micros, expires_at: object) -> list[Problem]:
        """What is wrong with it for a message without other problems."""
        end = spread_over(window, begin, self._length)[-1][1]
        if isinstance(expires_at, datetime) and micros(expires_at) <= end:
            reason = f"is before the end of the spread, at {moment(end):%Y-%m-%d %H:%M:%S} UTC"
            return [Problem("expires_at", reason, "pass a later time, or a shorter spread")]
        return []


def number_of(sends: object) -> int | None:
    """How many messages a call has; None: that is not known before they are read."""
    return len(sends) if isinstance(sends, Sized) else None


def check_window(window: object) -> list[Problem]:
    """What is wrong with the type of a window; None means none."""
    if window is None or isinstance(window, Window):
        return []
    return [Problem("window", "is not a sendq.Window", _REMEDY)]


def opening_problems(window: Window, due_at: Micros, expires_at: object) -> list[Problem]:
    """What is wrong with a window for a job that is due then; ``expires_at``: a datetime, if the caller passed one."""
    opens_at = first_opening(window, due_at)
    if opens_at is None:
        reason = "does not open within a year: all its days are holidays"
        return [Problem("window", reason, "pass other days or holidays")]
    if opens_at > due_at and isinstance(expires_at, datetime) and micros(expires_at) <= opens_at:
        reason = f"is before the window opens, at {window.clock(opens_at)}"
        return [Problem("expires_at", reason, "pass a later time, or another window")]
    return []


def check_spread(spread: Any) -> list[Problem]:
    """What is wrong with the spread of a batch; None means none."""
    if spread is None:
        return []
    if not isinstance(spread, timedelta):
        return [Problem("spread", "is not a timedelta", "pass one like timedelta(hours=4)")]
    if spread <= timedelta(0):
        return [Problem("spread", "is not positive", "pass a longer time, or None for no spread")]
    if spread > LONGEST_SPREAD:
        return [Problem("spread", f"is longer than {LONGEST_SPREAD.days} days", "pass a shorter time")]
    return []
