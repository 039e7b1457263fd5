"""The time that a worker goes by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sendq import clock
from sendq.clock import SECOND
from worker.clocks.ledger_clock import LedgerClock, since_boot

NANO = 1_000_000_000


def ledger(at: int, dialect: str = "postgresql") -> Any:
    """A connection to a ledger in which it is ``at``."""
    answer = SimpleNamespace(scalar_one=lambda: at)
    return SimpleNamespace(dialect=SimpleNamespace(name=dialect), execute=lambda _: answer)


class TestTheTimeOfTheLedger:
    def test_is_the_machines_until_the_ledger_was_asked(self) -> None:
        assert abs(LedgerClock()() - clock.now()) < SECOND

    def test_is_what_the_ledger_said_and_counts_on_from_there(self) -> None:
        elapsed = [5 * NANO]
        time = LedgerClock(elapsed=lambda: elapsed[0])
        time.ask(ledger(1_000 * SECOND))
        assert time() == 1_000 * SECOND
        elapsed[0] += 3 * NANO
        assert time() == 1_003 * SECOND

    def test_is_the_machines_own_where_the_ledger_is_on_the_machine(self) -> None:
        time = LedgerClock()
        time.ask(ledger(1_000 * SECOND, "sqlite"))
        assert abs(time() - clock.now()) < SECOND

    def test_counts_forward(self) -> None:
        assert since_boot() <= since_boot()
