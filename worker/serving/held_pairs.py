"""Holds that the turns of one process know of without asking the ledger: an answer to one of them concerns them all."""

from __future__ import annotations

from sendq.clock import Clock, Micros
from sendq.ledger.dispatching.lanes import NEVER

Pair = tuple[str, str]  # application and provider; "*" for all providers


class HeldPairs:
    """Belongs to the event loop."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._held: dict[Pair, Micros] = {}  # turns offered up to then begin no further call

    def hold(self, pair: Pair, scope: str, *, recorded: bool) -> None:
        """A hold of the pair's provider or whole application falls.

        Until the ledger has it, no turn of that scope may call, whenever it was offered. From then on only turns may
        that are offered later: the ledger has let those go, knowing of the hold.
        """
        application, _ = pair
        self._held[pair if scope == "provider" else (application, "*")] = self._now() if recorded else NEVER

    def allow(self, pair: Pair, offered_at: Micros) -> bool:
        """Whether no hold that falls on this pair came at, or after, the time at which a turn was offered."""
        if not self._held:
            return True
        application, _ = pair
        return all(self._held.get(scope, 0) < offered_at for scope in ((application, "*"), pair))
