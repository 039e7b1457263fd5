"""Applies reports that a mail failed later to jobs whose acceptance was recorded after the report."""

from __future__ import annotations

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger import delivery_status
from sendq.ledger.db.engine import reading, writing
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal

# A report seldom overtakes the record of its own acceptance, and then a person waits for it, not a program.
ROUND_S = 2.0

STEP = 500


class MailReports(LeaderLoop):
    """See the module."""

    def __init__(self, ledger: Engine, leadership: Leads, *, now: clock.Clock) -> None:
        super().__init__("mail reports", leadership, every_s=ROUND_S)
        self._ledger, self._now = ledger, now

    def lead_once(self) -> None:
        """One round."""
        with reading(self._ledger) as connection:
            if not delivery_status.any_pending(connection):
                return
        with writing(self._ledger) as connection:
            dead = delivery_status.apply_pending(connection, now=self._now(), limit=STEP)
        if dead:
            journal.mail_failed_later(dead)
