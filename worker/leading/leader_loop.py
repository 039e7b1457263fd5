"""A loop of which only the leader's does anything: the one place where that is asked."""

from __future__ import annotations

from abc import abstractmethod

from worker.leading.leadership import Leads
from worker.processes.periodic_loop import PeriodicLoop


class LeaderLoop(PeriodicLoop):
    """Every process has one of each; that of the leader acts."""

    def __init__(self, name: str, leadership: Leads, *, every_s: float, whole_ledger: bool = False) -> None:
        """``whole_ledger``: it does not act either while the ledger has lost something (`Leads.serves`)."""
        super().__init__(name, every_s=every_s)
        self._leadership, self._whole_ledger = leadership, whole_ledger

    @property
    def may_act(self) -> bool:
        """Whether this process is the one whose loop acts."""
        return self._leadership.serves if self._whole_ledger else self._leadership.leads

    def run_once(self) -> None:
        """One round, if this process leads."""
        if self.may_act:
            self.lead_once()
        else:
            self.stand_by()

    @abstractmethod
    def lead_once(self) -> None:
        """One round of the leader's."""

    def stand_by(self) -> None:
        """A round while another process leads, or none does: forget what was only known while this one did."""
        return
