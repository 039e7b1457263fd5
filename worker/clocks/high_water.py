"""The highest time that this process knows of: its own, the ledger's, and the API's ``Date``.

Ages of idempotency keys are told by the wall clock, which people and machines set. While it runs behind a time that
was seen before, no key is trusted (`sendq.rules.preflight.trusted_age`): what may have gone out is in doubt, and not
sent again.
"""

from __future__ import annotations

from sendq.clock import SECOND, Clock, Micros
from sendq.rules.preflight import CLOCK_TOLERANCE
from tasks.calling.mailbox import date_of

# A ``Date`` further ahead than any mistake about the time zone is not the time: believed once, it would keep every key
# from being trusted until then.
BELIEVED: Micros = 24 * 3600 * SECOND


class HighWaterMark:
    """Told by any thread; it only grows."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._seen: Micros = 0
        self._last_date = ""

    def __call__(self) -> Micros:
        """The highest time so far, the present included."""
        self.note(self._now())
        return self._seen

    def note(self, at: Micros) -> None:
        """Somebody has seen this time."""
        if at > self._seen:
            self._seen = at

    def said(self, date: str) -> None:
        """An answer of the API states this ``Date``; many a second state the same one."""
        if date == self._last_date:
            return
        self._last_date = date
        at = date_of({"date": date})
        if at is not None and at <= self._now() + BELIEVED:
            self.note(at)

    @property
    def clock_is_behind(self) -> bool:
        """Whether the clock of this machine runs behind what was seen before."""
        return self._now() < self._seen - CLOCK_TOLERANCE
