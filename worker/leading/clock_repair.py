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
from sendq.ledger.db.engine import reading, writing
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
        self._at_first = True  # what an earlier leader left is still to be brought back
        self._once_more = False  # the clock was set back, and nothing was brought back since
        self._until = float("-inf")
        self._budgets_too = False

    def stand_by(self) -> None:
        """The next leader looks for itself."""
        self._latest = None
        self._at_first = True

    def lead_once(self) -> None:
        """Look at the clock; bring times back if it was set back, and at first. What fails is tried again."""
        now, known = self._now(), self._latest
        behind = 0 if known is None else known - now
        self._latest = now if known is None else max(known, now)
        if behind > SLACK:
            self._latest = now
            self._once_more = True
            self._others_may_not_know()
            journal.clock_set_back(behind_s=behind / clock.SECOND)
            alert("clock_set_back", "set_back", level="error")
        at_first = self._at_first
        repeats = self._monotonic() <= self._until
        found, whole = False, True
        if at_first or self._once_more or repeats:
            found, whole = self._bring_back(behind if behind > SLACK else 0)
            self._once_more &= not whole
        if (at_first or self._budgets_too) and not repeats:
            more, all_of_them = self._bring_back_budgets()
            found, whole = found or more, whole and all_of_them
            self._budgets_too &= not all_of_them
        if at_first and found:  # the clock may have been set back just before
            self._others_may_not_know()
        self._at_first &= not whole

    def _others_may_not_know(self) -> None:
        self._until = self._monotonic() + self._repeat_s
        self._budgets_too = True

    def _bring_back(self, behind: clock.Micros) -> tuple[bool, bool]:
        """Whether something was to be brought back, and whether all has been looked at."""
        lanes = jobs = others = 0
        after: UUID | None = _FIRST
        while after is not None:
            if not self._may_go_on:
                return True, False
            with writing(self._ledger) as connection:
                done = set_back.lanes_step(connection, after=after, limit=LANES_MOST, now=self._now())
            after, lanes, jobs = done.after, lanes + done.lanes, jobs + done.jobs
        with writing(self._ledger) as connection:
            others += set_back.pairs_step(connection, now=self._now())
            others += set_back.deliveries_step(connection, now=self._now())
            if behind:
                set_back.note(connection, behind=behind, lanes=lanes, jobs=jobs, now=self._now())
        if lanes or jobs:
            journal.times_brought_back(lanes=lanes, jobs=jobs)
        return bool(lanes or jobs or others), True

    def _bring_back_budgets(self) -> tuple[bool, bool]:
        """As `_bring_back`."""
        with reading(self._ledger) as connection:
            if not set_back.budgets_are_ahead(connection, now=self._now()):
                return False, True
        sends, done = 0, -1
        while done and self._may_go_on:
            with writing(self._ledger) as connection:
                done = set_back.budgets_step(connection, now=self._now())
            sends += done
        if sends:
            journal.times_brought_back(lanes=0, jobs=sends)
        return True, not done

    @property
    def _may_go_on(self) -> bool:
        return self.may_act and not self._stopping.is_set()
