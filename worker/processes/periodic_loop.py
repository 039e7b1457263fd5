"""A loop in a thread of its own: one round every so often. An error ends a round, never the loop.

All loops of a machine go round at the same moments. A round that finds nothing to do costs four times as much when the
processor has forgotten everything since the one before: together, only the first pays that.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from sqlalchemy import exc

from sendq.errors import SendqError
from worker.telemetry import journal


def until_next(every_s: float, at: float) -> float:
    """Seconds from ``at`` (monotonic) to the next moment for rounds that come every so often."""
    return every_s - at % every_s


class PeriodicLoop(ABC):
    """What the rescuer, the checker and the keeper have in common."""

    def __init__(self, name: str, *, every_s: float) -> None:
        self._name, self._every_s = name, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sendq-{name}", daemon=True)

    @abstractmethod
    def run_once(self) -> None:
        """One round; what tests call."""

    def ledger_is_away(self) -> None:
        """The round ended for want of the ledger. The dispatcher says so already."""
        return

    def start(self) -> None:
        """Begin to go round."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Go round no more; waits for the round that is on, within the limit."""
        self._stopping.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._stopping.wait(until_next(self._every_s, time.monotonic())):
            try:
                self.run_once()
            except (SendqError, exc.SQLAlchemyError):
                self.ledger_is_away()
            except Exception:
                journal.bug(self._name)
