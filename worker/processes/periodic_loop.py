"""A loop in its own thread that runs once per interval. An error ends only the current round.

All loops on a machine run at the same moments: an idle round costs four times as much with cold processor caches, and
together only the first one pays that.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from sqlalchemy import exc

from sendq.errors import Retryable, SendqError
from worker.telemetry import journal


def until_next(every_s: float, at: float) -> float:
    """Seconds from ``at`` (monotonic) to the next multiple of ``every_s``."""
    return every_s - at % every_s


def latest(every_s: float, at: float) -> float:
    """The last multiple of ``every_s`` that is not after ``at`` (monotonic)."""
    return at - at % every_s


class PeriodicLoop(ABC):
    """Base class of the rescuer and of the leader's loops (`worker.leading.leader_loop`)."""

    def __init__(self, name: str, *, every_s: float) -> None:
        self._name, self._every_s = name, every_s
        self._due_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sendq-{name}", daemon=True)

    @abstractmethod
    def run_once(self) -> None:
        """One round; called directly by tests."""

    @property
    def due_at(self) -> float:
        """When this round was due (monotonic), the same for all loops; now, if `run_once` is called directly."""
        return time.monotonic() if self._due_at is None else self._due_at

    def ledger_unavailable(self) -> None:
        """The round ended because the ledger is unavailable. The dispatcher logs that already."""
        return

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Stop the loop; wait up to ``limit_s`` seconds for the current round."""
        self._stopping.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        while not self._stopping.wait(until_next(self._every_s, time.monotonic())):
            self._due_at = latest(self._every_s, time.monotonic())
            try:
                self.run_once()
            except Retryable:  # a conflict with another transaction: the next round does it
                continue
            except (SendqError, exc.SQLAlchemyError):
                self.ledger_unavailable()
            except Exception:
                journal.bug(self._name)
