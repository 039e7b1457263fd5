"""Holds grants with too high a bounce rate within an hour, if `SENDQ_BOUNCE_HOLD_S` is set.

Only the grant is held: its account is what its provider punishes, and another customer's mail has no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine

from sendq import clock
from sendq.ledger import bounce_holds
from sendq.ledger.db.engine import reading, writing
from sendq.rules.rule_ids import BOUNCE_RATE
from settings import Settings
from worker.leading.leader_loop import LeaderLoop
from worker.leading.leadership import Leads
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# A bounce comes within seconds to minutes of its send.
ROUND_S = 30.0

# Counting reads the mail of an hour, on a large ledger for seconds; then it pauses for this many times as long.
REST = 50


class BounceHolds(LeaderLoop):
    """See the module. Only for settings with `bounce_hold_s`."""

    def __init__(
        self,
        ledger: Engine,
        leadership: Leads,
        settings: Settings,
        *,
        now: clock.Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("bounce holds", leadership, every_s=ROUND_S)
        assert settings.bounce_hold_s is not None
        self._ledger, self._settings, self._now, self._monotonic = ledger, settings, now, monotonic
        self._lasts = clock.seconds(settings.bounce_hold_s)
        self._rests_until = float("-inf")

    def lead_once(self) -> None:
        """One round."""
        began = self._monotonic()
        if began < self._rests_until:
            return
        now, s = self._now(), self._settings
        with reading(self._ledger) as connection:
            found = bounce_holds.find_bounced(connection, rate=s.bounce_rate, least=s.bounce_least, now=now)
        ended = self._monotonic()
        self._rests_until = ended + REST * (ended - began)
        if not found:
            return
        until = now + self._lasts
        with writing(self._ledger) as connection:
            held = bounce_holds.hold_bounced(connection, found, until=until, now=now)
        for one in held:
            journal.held_for_bounces(
                one.application, one.grant_id, bounced=one.bounced, accepted=one.accepted, until=until
            )
            alert("hold", BOUNCE_RATE, level="error", application=one.application, grant=one.grant_id)
