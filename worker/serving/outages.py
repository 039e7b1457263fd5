"""Outages: when several grants of one application meet nothing but answers that are not the API's.

One such answer may be an accident. Many in a row, of several grants and without a success between them, show that
something stands between this process and the API.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from uuid import UUID

GRANTS_LEAST = 2


class Outages:
    """What the calls of this process met lately. Belongs to the event loop."""

    def __init__(self, *, number: int, window_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """``number``: failures in a row that make an outage, if the first of them is not older than ``window_s``."""
        self._number, self._window_s, self._monotonic = number, window_s, monotonic
        self._failures: dict[str, deque[tuple[float, UUID]]] = {}  # by application

    def failed(self, application: str, lane_id: UUID) -> bool:
        """A call of a grant met no answer of the API; returns whether that is an outage."""
        failures = self._failures.setdefault(application, deque(maxlen=self._number))
        at = self._monotonic()
        failures.append((at, lane_id))
        recent = [lane for when, lane in failures if when > at - self._window_s]
        return len(recent) >= self._number and len(set(recent)) >= GRANTS_LEAST

    def succeeded(self, application: str) -> None:
        """A call of the application succeeded: there is none."""
        self._failures.pop(application, None)
