"""The time that a worker goes by."""

from __future__ import annotations

from typing import Any

from sendq import clock
from sendq.clock import SECOND
from worker.clocks.ledger_clock import LedgerClock, since_boot

NANO = 1_000_000_000


# The functions that are given to the clock here use no connection.
CONNECTION: Any = None


class TestTheTimeOfTheLedger:
    def test_is_the_machines_until_the_ledger_was_asked(self) -> None:
        assert abs(LedgerClock()() - clock.now()) < SECOND

    def test_is_what_the_ledger_said_and_counts_on_from_there(self) -> None:
        elapsed = [5 * NANO]
        time = LedgerClock(elapsed=lambda: elapsed[0], server=lambda _: 1_000 * SECOND)
        time.ask(CONNECTION)
        assert time() == 1_000 * SECOND
        elapsed[0] += 3 * NANO
        assert time() == 1_003 * SECOND

    def test_is_the_machines_own_where_the_ledger_is_on_the_machine(self) -> None:
        time = LedgerClock(server=lambda _: None)
        time.ask(CONNECTION)
        assert abs(time() - clock.now()) < SECOND

    def test_counts_forward(self) -> None:
        assert since_boot() <= since_boot()
