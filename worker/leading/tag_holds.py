"""The leader's work on holds of tags that were released: brings back the jobs that they put off."""

from __future__ import annotations

import time
from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import tag_holds
from worker.telemetry import journal

_FIRST = UUID(int=0)


class TagHolds:
    """A part of the rounds of `worker.leading.batches.Batches`."""

    def __init__(self, ledger: Engine, *, now: clock.Clock) -> None:
        self._ledger, self._now = ledger, now
        self._up_to: dict[tuple[str, str], UUID] = {}  # the last job that was looked at

    def forget(self) -> None:
        """Forget this process's progress: another process continues meanwhile."""
        self._up_to.clear()

    def bring_back(self, until: float) -> None:
        """Bring back as many jobs as fit into the time; ``until``: on the monotonic clock."""
        with reading(self._ledger) as connection:
            released = tag_holds.released(connection)
        for application, tag in released:
            self._bring_back(application, tag, until)

    def _bring_back(self, application: str, tag: str, until: float) -> None:
        jobs = 0
        name = (application, tag)
        while time.monotonic() < until:
            with writing(self._ledger) as connection:
                after = self._up_to.get(name, _FIRST)
                part, onwards = tag_holds.bring_back(connection, application, tag, after=after, now=self._now())
            jobs += part
            if onwards is None:
                self._up_to.pop(name, None)
                break
            self._up_to[name] = onwards
        if jobs:
            journal.tag_released(application, tag, jobs)
