"""Acts being carried out: each in its own thread, so that it goes on when its page is closed; it can be stopped."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

from sendq.errors import SendqError

log = logging.getLogger("sendq.console")

# What an act has done so far: labels with numbers or words.
Facts: TypeAlias = Sequence[tuple[str, str]]


class BatchId(str):
    """The value of a fact that is the id of a batch: the page links to it."""

    __slots__ = ()


AT_ONCE = 8
REMEMBERED = 200  # acts whose page can still be opened

# A page waits this long for an act to end before it shows it as unfinished, in seconds.
PATIENCE_S = 0.7


class RunState(StrEnum):
    """How far an act is."""

    WORKING = "working"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class TooManyRuns(Exception):
    """As many acts as allowed are being carried out."""


@dataclass
class Run:
    """One act. ``back``: the page that it began on."""

    id: str
    title: str
    by: str
    reason: str
    back: str
    begun_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    state: RunState = RunState.WORKING
    facts: Facts = ()
    error: str | None = None
    asked_to_stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def carry_out(self, parts: Iterator[Facts]) -> None:
        """Until it ends, fails or is asked to stop. What was done is kept in any case."""
        state = RunState.DONE
        try:
            for facts in parts:
                self.facts = facts
                if self.asked_to_stop.is_set():
                    state = RunState.STOPPED
                    break
        except SendqError as error:
            self.error, state = str(error), RunState.FAILED
        except Exception:
            log.exception("an act failed")
            self.error, state = "it failed by a mistake of the console; its log has the details", RunState.FAILED
        self.ended_at = datetime.now(UTC)
        self.state = state
        self.ended.set()


class Runs:
    """The acts of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def begin(self, run: Run, parts: Callable[[], Iterator[Facts]]) -> Run:
        """Carry out an act, and wait a moment for its end. One that was begun before (a form sent twice) is not again.

        Raises `TooManyRuns`.
        """
        with self._lock:
            known = self._runs.get(run.id)
            if known is not None:
                return known
            if sum(not one.ended.is_set() for one in self._runs.values()) >= AT_ONCE:
                raise TooManyRuns
            self._runs[run.id] = run
            while len(self._runs) > REMEMBERED:
                self._forget_one()
        thread = threading.Thread(target=lambda: run.carry_out(parts()), name="sendq-console-act", daemon=True)
        thread.start()
        run.ended.wait(PATIENCE_S)
        return run

    def get(self, identity: str) -> Run | None:
        """An act by its id."""
        return self._runs.get(identity)

    def stop_all(self) -> None:
        """Ask every act to stop after its current step."""
        for run in list(self._runs.values()):
            run.asked_to_stop.set()

    def _forget_one(self) -> None:
        oldest = next(identity for identity, run in self._runs.items() if run.ended.is_set())
        del self._runs[oldest]
