"""The leader's work on holds of tags that are over: brings back the jobs that they put off."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import tag_holds
from worker.telemetry import journal


class TagHolds:
    """A part of the rounds of `worker.leading.batches.Batches`."""

    def __init__(self, ledger: Engine, *, now: clock.Clock) -> None:
        self._ledger, self._now = ledger, now

    def bring_back(self, until: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Bring back as many jobs as fit into the time, some at least; ``until``: on the monotonic clock. The tags take
        turns.
        """
        with reading(self._ledger) as connection:
            left = tag_holds.ended(connection, now=self._now())
        jobs = dict.fromkeys(left, 0)
        while left:
            name = left.pop(0)
            with writing(self._ledger) as connection:
                part, more = tag_holds.bring_back(connection, *name, now=self._now())
            jobs[name] += part
            if more:
                left.append(name)
            if monotonic() >= until:
                break
        for (application, tag), number in jobs.items():
            if number:
                journal.tag_released(application, tag, number)
