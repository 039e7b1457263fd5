"""A periodic loop that acts only in the leading process: the one place where this is checked."""

from __future__ import annotations

from abc import abstractmethod

from worker.leading.leadership import Leads
from worker.processes.periodic_loop import PeriodicLoop


class LeaderLoop(PeriodicLoop):
    """Every process runs each of these loops; only the leader's act."""

    def __init__(self, name: str, leadership: Leads, *, every_s: float, whole_ledger: bool = False) -> None:
        """``whole_ledger``: act only while the ledger has lost nothing (`Leads.serves`)."""
        super().__init__(name, every_s=every_s)
        self._leadership, self._whole_ledger = leadership, whole_ledger

    @property
    def may_act(self) -> bool:
        """Whether the loop of this process acts."""
        return self._leadership.serves if self._whole_ledger else self._leadership.leads

    def run_once(self) -> None:
        """Call `lead_once` if this process may act, else `stand_by`."""
        if self.may_act:
            self.lead_once()
        else:
            self.stand_by()

    @abstractmethod
    def lead_once(self) -> None:
        """One round as the leader."""

    def stand_by(self) -> None:
        """One round while this process may not act: drop the state that is only valid while it may."""
        return
