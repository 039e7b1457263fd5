"""The operator of a soak: ends the doubts that are left to people, as the API's mailbox shows.

A doubt that nobody ends keeps its rows for the whole run, each on an index page of its own.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from sendq import Operators
from sendq.rules.by_hand import Answer
from tests.support.system import System

EVERY_S = 60.0
OLDER_THAN = timedelta(minutes=2)  # the workers' own searches are over by then
REASON = "looked into the mailbox"


class Operator(threading.Thread):
    """Looks at the doubts every minute, until it is stopped. ``resolved``: how many it ended."""

    def __init__(self, system: System) -> None:
        super().__init__(name="operator", daemon=True)
        self._system, self._operators = system, Operators(system.engine)
        self._ended = threading.Event()
        self.resolved = 0

    def stop(self) -> None:
        """Stop, after what it is doing."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """See the class."""
        while not self._ended.wait(EVERY_S):
            old = self._operators.doubts(until=datetime.now(UTC) - OLDER_THAN, limit=500).items
            there = {one.job for one in self._system.api.mailbox}
            self._resolve([doubt.id for doubt in old if doubt.id in there], Answer.SENT)
            self._resolve([doubt.id for doubt in old if doubt.id not in there], Answer.DEAD)

    def _resolve(self, jobs: list[str], answer: Answer) -> None:
        if jobs:
            self.resolved += self._operators.resolve(jobs, answer, by="soak", reason=REASON).finish().resolved
