"""Recording that somebody tried to act who may not."""

from __future__ import annotations

from sendq.ledger import events
from sendq.operators.base import LedgerAccess
from sendq.signing import signed


class Refusals(LedgerAccess):
    """For programs with users of their own, such as the console: the ledger itself knows no roles."""

    def record_refusal(self, act: str, *, by: str, reason: str) -> None:
        """Write the event ``refused``: ``by`` tried an act, and was not allowed to. Nothing else is changed."""
        by, reason = signed(by, f"{act}: {reason}")
        with self._ledger.writing() as connection:
            events.append(connection, "refused", at=self._now(), by=by, reason=reason)
