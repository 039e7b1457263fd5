"""Holds that all turns of a process obey as soon as an answer to one of them asks for it, without asking the ledger."""

from __future__ import annotations

from sendq.clock import Clock, Micros
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.facts.outcomes import Scope
from sendq.ledger.dispatching.lanes import NEVER

Pair = tuple[str, str]  # application; provider or `WHOLE_APPLICATION`


class HeldPairs:
    """Belongs to the event loop."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._held: dict[Pair, Micros] = {}  # turns offered up to this time begin no further calls

    def hold(self, pair: Pair, scope: str, *, recorded: bool) -> None:
        """Hold the pair's provider, or its whole application.

        Until the hold is recorded in the ledger, no turn in that scope may call, regardless of when it was offered.
        Afterwards, only turns that are offered later may call: the ledger took the hold into account.
        """
        application, _ = pair
        self._held[pair if scope == Scope.PROVIDER else (application, WHOLE_APPLICATION)] = (
            self._now() if recorded else NEVER
        )

    def allow(self, pair: Pair, offered_at: Micros) -> bool:
        """Whether no hold on this pair came at or after ``offered_at``, the time at which the turn was offered."""
        if not self._held:
            return True
        application, _ = pair
        return all(self._held_at(scope) < offered_at for scope in ((application, WHOLE_APPLICATION), pair))

    def _held_at(self, scope: Pair) -> Micros:
        at = self._held.get(scope, 0)
        if at != NEVER and at > (now := self._now()):  # the clock was set back since
            at = self._held[scope] = now
        return at
