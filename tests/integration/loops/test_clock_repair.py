"""When the leader brings times back that a clock which was ahead has written."""

from __future__ import annotations

from dataclasses import dataclass

from sendq.clock import SECOND
from sendq.ledger.db import schema
from sendq.rules.budgets import Budget, Budgets
from tests.support.leading import FixedLeadership
from tests.support.ledger import Ledger
from worker.leading.clock_repair import ClockRepair

REPEAT_S = 8.0


@dataclass
class Machine:
    """A leader whose ledger's clock may jump while real time passes."""

    ledger: Ledger
    monotonic: float = 0.0

    def __post_init__(self) -> None:
        self.repair = ClockRepair(
            self.ledger.engine,
            FixedLeadership(),
            now=self.ledger.clock,
            repeat_s=REPEAT_S,
            monotonic=lambda: self.monotonic,
        )

    def round(self, seconds: float = 1.0) -> None:
        self.monotonic += seconds
        self.ledger.clock.advance(seconds)
        self.repair.run_once()

    def is_late(self) -> bool:
        return bool(self.ledger.lane().next_at > self.ledger.clock())

    def notes(self) -> int:
        return len(self.ledger.rows(schema.event))


class TestTheLeader:
    def test_brings_back_when_the_clock_was_set_back(self, ledger: Ledger) -> None:
        machine = Machine(ledger)
        machine.round()
        ledger.send()
        ledger.clock.advance(300)
        ledger.absorb()
        machine.round()
        ledger.clock.advance(-300)
        machine.round()
        assert (machine.is_late(), machine.notes()) == (False, 1)

    def test_brings_back_what_others_write_until_they_know(self, ledger: Ledger) -> None:
        machine = Machine(ledger)
        ledger.clock.advance(300)
        machine.round()
        ledger.clock.advance(-300)
        machine.round()
        ledger.send()
        ledger.clock.advance(300)
        ledger.absorb()
        ledger.clock.advance(-300)
        machine.round(REPEAT_S - 1)
        assert (machine.is_late(), machine.notes()) == (False, 1)

    def test_brings_back_what_an_earlier_leader_left(self, ledger: Ledger) -> None:
        machine = Machine(ledger)
        ledger.send()
        ledger.clock.advance(300)
        ledger.absorb()
        ledger.clock.advance(-300)
        machine.round()
        assert (machine.is_late(), machine.notes()) == (False, 0)

    def test_brings_budgets_back_once_the_others_know(self, ledger: Ledger) -> None:
        machine = Machine(ledger)
        ledger.budgets = Budgets([Budget("default", "", 1, 60 * SECOND)])
        ledger.clock.advance(3_600)
        machine.round()
        ledger.send()
        ledger.serve()
        ahead = ledger.rows(schema.budget)[0].window_at
        ledger.clock.advance(-3_600)
        for _ in range(2):
            machine.round(REPEAT_S / 2)
            assert ledger.rows(schema.budget)[0].window_at == ahead
        machine.round(REPEAT_S)
        assert ledger.rows(schema.budget)[0].window_at <= ledger.clock()

    def test_brings_budgets_back_that_an_earlier_leader_left(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 1, 60 * SECOND)])
        ledger.clock.advance(3_600)
        ledger.send()
        ledger.serve()
        ledger.clock.advance(-3_600)
        Machine(ledger).round()
        assert ledger.rows(schema.budget)[0].window_at <= ledger.clock()
