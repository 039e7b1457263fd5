"""The clock repair: after a clock that was ahead has been set back, nothing waits until real time has caught up.

The leader compares the ledger's time with the latest that it has seen. If it was set back, and when this process
begins to lead, the times that lie further ahead than any pace or hold allows are brought back. Other workers read the
ledger's time with each heartbeat, and may write wrong times until then: so it is repeated for some seconds, and budgets
are brought back after those.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import set_back
from sendq.rules.set_back import SLACK
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal
from worker.telemetry.alerts import alert

ROUND_S = 1.0

LANES_MOST = 200

_FIRST = UUID(int=0)


class ClockRepair(LeaderLoop):
    """See the module."""

    def __init__(
        self,
        ledger: Engine,
        leadership: Leads,
        *,
        now: clock.Clock,
        repeat_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``repeat_s``: for how long other workers may not know yet that the clock was set back."""
        super().__init__("clock-repair", leadership, every_s=ROUND_S)
        self._ledger, self._now, self._repeat_s, self._monotonic = ledger, now, repeat_s, monotonic
        self._latest: clock.Micros | None = None  # None: this process does not lead
        self._until = float("-inf")
        self._budgets_too = False

    def stand_by(self) -> None:
        """The next leader looks for itself."""
        self._latest = None

    def lead_once(self) -> None:
        """Look at the clock; bring times back if it was set back, and at first."""
        now, known = self._now(), self._latest
        behind = 0 if known is None else known - now
        self._latest = now if known is None else max(known, now)
        if behind > SLACK:
            self._latest = now
            self._until = self._monotonic() + self._repeat_s
            self._budgets_too = True
            journal.clock_set_back(behind_s=behind / clock.SECOND)
            alert("clock_set_back", "set_back", level="error")
        repeats = self._monotonic() <= self._until
        if known is None or repeats:
            self._bring_back(behind if behind > SLACK else 0)
        if known is None or (self._budgets_too and not repeats):
            self._bring_back_budgets()

    def _bring_back(self, behind: clock.Micros) -> None:
        lanes = jobs = 0
        after: UUID | None = _FIRST
        while after is not None and self.may_act and not self._stopping.is_set():
            with writing(self._ledger) as connection:
                done = set_back.lanes_step(connection, after=after, limit=LANES_MOST, now=self._now())
            after, lanes, jobs = done.after, lanes + done.lanes, jobs + done.jobs
        with writing(self._ledger) as connection:
            set_back.pairs_step(connection, now=self._now())
            set_back.deliveries_step(connection, now=self._now())
            if behind:
                set_back.note(connection, behind=behind, lanes=lanes, jobs=jobs, now=self._now())
        if lanes or jobs:
            journal.times_brought_back(lanes=lanes, jobs=jobs)

    def _bring_back_budgets(self) -> None:
        sends = 0
        while self.may_act and not self._stopping.is_set():
            with writing(self._ledger) as connection:
                done = set_back.budgets_step(connection, now=self._now())
            sends += done
            if not done:
                self._budgets_too = False
                break
        if sends:
            journal.times_brought_back(lanes=0, jobs=sends)
