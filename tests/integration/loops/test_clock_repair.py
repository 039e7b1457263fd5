"""When the leader brings times back that a clock which was ahead has written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sendq.clock import SECOND
from sendq.errors import Retryable
from sendq.ledger.db import schema
from sendq.ledger.dispatching import set_back
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

    def fail(self, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A round that cannot reach the ledger for one of its steps."""

        def fails(*_given: Any, **_more: Any) -> None:
            raise Retryable("the server is gone")

        with monkeypatch.context() as patch:
            patch.setattr(set_back, of, fails)
            with pytest.raises(Retryable):
                self.round()

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

    @pytest.mark.parametrize("step", ["lanes_step", "deliveries_step", "budgets_step"])
    def test_brings_back_what_it_could_not_at_first(
        self, ledger: Ledger, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(ledger)
        ledger.budgets = Budgets([Budget("default", "", 1, 60 * SECOND)])
        begin_and_wake_ahead(ledger)
        machine.fail(step, monkeypatch)
        machine.round()
        assert not machine.is_late()
        assert ledger.rows(schema.budget)[0].window_at <= ledger.clock()

    def test_brings_back_what_it_could_not_after_the_clock_was_set_back(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine = Machine(ledger)
        ledger.send()
        ledger.clock.advance(300)
        machine.round()
        ledger.absorb()
        ledger.clock.advance(-300)
        machine.fail("lanes_step", monkeypatch)
        machine.round(REPEAT_S + 1)
        assert not machine.is_late()

    def test_goes_on_where_it_lost_the_lead(self, ledger: Ledger) -> None:
        machine = Machine(ledger)
        ledger.send()
        ledger.clock.advance(300)
        ledger.absorb()
        ledger.clock.advance(-300)
        machine.repair._leadership = LostAtOnce()
        machine.round()
        assert machine.is_late()
        machine.repair._leadership = FixedLeadership()
        machine.round()
        assert not machine.is_late()

    def test_repeats_what_found_something_at_first(self, ledger: Ledger) -> None:
        ledger.budgets = Budgets([Budget("default", "", 1, 60 * SECOND)])
        machine = Machine(ledger)
        for _ in range(2):  # an earlier leader has died, and the others do not know yet
            begin_and_wake_ahead(ledger)
            machine.round()
            assert not machine.is_late()
        machine.round(REPEAT_S + 1)
        assert ledger.rows(schema.budget)[0].window_at <= ledger.clock()


def begin_and_wake_ahead(ledger: Ledger) -> None:
    """What a worker does whose clock is an hour ahead: one send begins, the lane of another waits."""
    ledger.send("g2")
    ledger.clock.advance(3_600)
    ledger.absorb()
    ledger.claim(ledger.offer())
    ledger.clock.advance(-3_600)
    ledger.send()
    ledger.clock.advance(3_600)
    ledger.absorb()
    ledger.clock.advance(-3_600)


class LostAtOnce(FixedLeadership):
    """It is lost as soon as the round has begun."""

    def __init__(self) -> None:
        self.serves, self._answers = True, iter([True])

    @property
    def leads(self) -> bool:  # type: ignore[override]
        return next(self._answers, False)
