"""The latest time that this process has seen: its own, the ledger's, and the API's ``Date``.

The age of an idempotency key is measured by the wall clock, which can be set back. While it is behind a time that was
seen before, no key is trusted (`sendq.rules.preflight.trusted_age`): what may have gone out is in doubt, and not sent
again.
"""

from __future__ import annotations

from sendq.clock import SECOND, Clock, Micros
from sendq.rules.preflight import CLOCK_TOLERANCE
from tasks.calling.mailbox import date_of

# A ``Date`` further ahead than any time zone mistake is ignored: otherwise no key would be trusted until then.
BELIEVED: Micros = 24 * 3600 * SECOND


class HighWaterMark:
    """A time that only increases. Thread-safe."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._seen: Micros = 0
        self._last_date = ""

    def __call__(self) -> Micros:
        """The latest time so far, including the present."""
        self.note(self._now())
        return self._seen

    def note(self, at: Micros) -> None:
        """Record that this time was seen."""
        if at > self._seen:
            self._seen = at

    def note_date(self, date: str) -> None:
        """Record the ``Date`` of an answer of the API; many answers per second have the same one."""
        if date == self._last_date:
            return
        self._last_date = date
        at = date_of({"date": date})
        if at is not None and at <= self._now() + BELIEVED:
            self.note(at)

    @property
    def clock_is_behind(self) -> bool:
        """Whether the clock of this machine is behind a time that was seen before."""
        return self._now() < self._seen - CLOCK_TOLERANCE
