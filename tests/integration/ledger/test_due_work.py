"""Whether a ledger has anything to do, while a dispatcher goes on."""

from __future__ import annotations

import pytest

from sendq.ledger.db.engine import reading
from sendq.ledger.dispatching.due_work import has_due_work
from tests.support.ledger import Ledger, between_statements


class TestWhileADispatcherGoesOn:
    @pytest.mark.parametrize("at", range(5))
    def test_sees_a_lane_whose_turn_begins_meanwhile(self, ledger: Ledger, at: int) -> None:
        ledger.send()
        ledger.absorb()
        with reading(ledger.engine) as connection, between_statements(connection, at, lambda: offer_one(ledger)):
            assert has_due_work(connection, now=ledger.clock())

    def test_finds_nothing_once_all_is_done(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.finish(ledger.serve())
        with reading(ledger.engine) as connection:
            assert not has_due_work(connection, now=ledger.clock())


def offer_one(ledger: Ledger) -> None:
    (turn,) = ledger.offer()
    assert turn
