"""Applies reports about mail to jobs whose outcome was recorded after the report."""

from __future__ import annotations

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger import delivery_status
from sendq.ledger.db.engine import reading, writing
from sendq.rules.states import State
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.leading.work_poll import WorkPoll
from worker.telemetry import journal

# A report seldom overtakes the record of its own outcome, and then a person waits for it, not a program.
ROUND_S = 2.0

STEP = 500


class MailReports(LeaderLoop):
    """See the module."""

    def __init__(self, ledger: Engine, leadership: Leads, poll: WorkPoll, *, now: clock.Clock) -> None:
        super().__init__("mail reports", leadership, every_s=ROUND_S)
        self._ledger, self._poll, self._now = ledger, poll, now

    def lead_once(self) -> None:
        """One round."""
        if not self._poll.since(self.due_at).reports:
            return
        with reading(self._ledger) as connection:
            jobs = delivery_status.find_pending(connection, limit=STEP)
        if not jobs:
            return
        with writing(self._ledger) as connection:
            moved = delivery_status.apply_known(connection, jobs, now=self._now())
        if dead := sum(state is State.DEAD for state in moved.values()):
            journal.mail_failed_later(dead)
