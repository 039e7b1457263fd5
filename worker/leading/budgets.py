"""Announces budgets that sends are over, once in each window: in the log, to Sentry and in the ledger's events. Brings
forward the sends that need not wait for one any more.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger.db.bulk import chunks
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching.budget_room import Place, Room, bring_forward, choose, forget, room
from sendq.ledger.dispatching.budgets import STEP, announce
from sendq.rules.budgets import Budgets
from sendq.rules.rule_ids import OVER_BUDGET
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal
from worker.telemetry.alerts import alert

ROUND_S = 5.0


class BudgetWatch(LeaderLoop):
    """See the module. Without budgets it only brings forward, at first, what waits for those that there were."""

    def __init__(self, ledger: Engine, leadership: Leads, budgets: Budgets, *, now: clock.Clock) -> None:
        super().__init__("budget watch", leadership, every_s=ROUND_S)
        self._ledger, self._budgets, self._now = ledger, budgets, now
        self._at_first = True
        self._looked: frozenset[object] = frozenset()  # marks of the windows for which nothing more can be done

    def stand_by(self) -> None:
        """The next leader may have other settings."""
        self._at_first = True

    def lead_once(self) -> None:
        """One round."""
        if self._at_first:
            with writing(self._ledger) as connection:
                forget(connection, self._budgets, now=self._now())
        elif not self._budgets:
            return
        self._announce()
        with reading(self._ledger) as connection:
            found = room(connection, self._budgets, now=self._now())
        if (self._at_first or found.marks - self._looked) and not self._bring_forward(found):
            return
        self._at_first, self._looked = False, found.marks

    def _announce(self) -> None:
        with writing(self._ledger) as connection:
            over = announce(connection)
        for one in over:
            journal.over_budget(one.application, one.tag or None, budget=one.says, until=one.until)
            alert("over_budget", OVER_BUDGET, level="error", application=one.application)

    def _bring_forward(self, found: Room) -> bool:
        """Whether it has come to the end."""
        place: Place | None = (self._now(), UUID(int=0))
        while place is not None:
            with reading(self._ledger) as connection:
                chosen, place = choose(connection, self._budgets, found.of, after=place, now=self._now())
            # Many may wait that cannot begin: what writes keeps the ledger only for those that can.
            for some in chunks(chosen, STEP):
                if not self.may_act or self._stopping.is_set():
                    return False
                with writing(self._ledger) as connection:
                    bring_forward(connection, some, now=self._now())
            if not self.may_act or self._stopping.is_set():
                return False
        return True
