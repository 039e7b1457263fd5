"""Announces budgets that sends are over: in the log, to Sentry and in the ledger's events, once in each window."""

from __future__ import annotations

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching.budgets import announce
from sendq.rules.rule_ids import OVER_BUDGET
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal
from worker.telemetry.alerts import alert

ROUND_S = 5.0


class BudgetWatch(LeaderLoop):
    """See the module. Only for settings with `budgets`."""

    def __init__(self, ledger: Engine, leadership: Leads, *, now: clock.Clock) -> None:
        super().__init__("budget watch", leadership, every_s=ROUND_S)
        self._ledger, self._now = ledger, now

    def lead_once(self) -> None:
        """One round."""
        with writing(self._ledger) as connection:
            over = announce(connection)
        for one in over:
            journal.over_budget(one.application, one.tag or None, budget=one.says, until=one.until)
            alert("over_budget", OVER_BUDGET, level="error", application=one.application)
