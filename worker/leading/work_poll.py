"""Asks the ledger what there is to do, once for all of the leader's loops."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from sqlalchemy import Engine

from sendq.clock import Clock
from sendq.ledger import pending_work
from sendq.ledger.db.engine import reading
from sendq.ledger.pending_work import PendingWork


class Failed(NamedTuple):
    """A question that was not answered."""

    error: Exception
    traceback: TracebackType | None


class WorkPoll:
    """Thread-safe. The loops run at the same moments (`PeriodicLoop`): the first asks, and all use its answer."""

    def __init__(self, ledger: Engine, *, now: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._now, self._monotonic = ledger, now, monotonic
        self._lock = threading.Lock()
        self._asked_at = -math.inf
        self._answer: PendingWork | Failed

    def since(self, at: float) -> PendingWork:
        """What there is to do, by an answer to a question that was asked at ``at`` (monotonic, seconds) or later.

        Raises what asking raised, in every loop: a ledger that is away is asked once, not by one loop after the other.
        """
        with self._lock:
            if self._asked_at < at:
                self._asked_at = self._monotonic()
                self._answer = self._ask()
            answer = self._answer
        if isinstance(answer, Failed):
            raise answer.error.with_traceback(answer.traceback)  # without where other loops raised it
        return answer

    def _ask(self) -> PendingWork | Failed:
        try:
            with reading(self._ledger) as connection:
                return pending_work.find(connection, now=self._now())
        except Exception as error:
            return Failed(error, error.__traceback__)
