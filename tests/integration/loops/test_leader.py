"""Who leads: one at a time, by a lease with a fence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID

from sendq.clock import SECOND
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.dispatching import workers
from tests.support.ledger import START, Ledger
from tests.support.waiting import LIMIT_S


class TestTheLeader:
    LEASE = 5 * SECOND

    def lead(self, ledger: Ledger, holder: UUID) -> int | None:
        with ledger.writing() as connection:
            return workers.lead(connection, holder, now=ledger.clock(), lease=self.LEASE)

    def act(self, ledger: Ledger, action: Callable[..., object], *arguments: object) -> object:
        with ledger.writing() as connection:
            return action(connection, *arguments)

    def test_is_one_at_a_time(self, ledger: Ledger) -> None:
        one, other = new_id(), new_id()
        assert self.lead(ledger, one) == 1
        assert self.lead(ledger, other) is None
        ledger.clock.advance(4.9)
        assert self.lead(ledger, one) == 1  # renewed
        ledger.clock.advance(4.9)
        assert self.lead(ledger, other) is None

    def test_is_followed_by_another_when_the_lease_is_over(self, ledger: Ledger) -> None:
        one, other = new_id(), new_id()
        self.lead(ledger, one)
        ledger.clock.advance(5)
        assert self.lead(ledger, other) == 2
        assert self.lead(ledger, one) is None
        assert self.act(ledger, workers.sleep_until, one, START) is False

    def test_may_resign(self, ledger: Ledger) -> None:
        one, other = new_id(), new_id()
        self.lead(ledger, one)
        self.act(ledger, workers.resign, one)
        assert self.lead(ledger, other) == 2
        self.act(ledger, workers.resign, one)  # which is not the leader any more
        assert self.lead(ledger, one) is None

    def test_has_a_fence_that_only_grows(self, ledger: Ledger) -> None:
        one, other = new_id(), new_id()
        fences = []
        for holder in (one, other, one, one, other):
            fence = self.lead(ledger, holder)
            assert fence is not None
            fences.append(fence)
            ledger.clock.advance(5)
        assert fences == sorted(fences)
        assert len(set(fences)) == 4  # the one that led twice in a row kept its own

    def test_sleeps_only_while_it_leads(self, ledger: Ledger) -> None:
        one, other = new_id(), new_id()
        self.lead(ledger, one)
        assert self.act(ledger, workers.sleep_until, one, ledger.clock() + SECOND) is True
        assert self.act(ledger, workers.sleep_until, other, ledger.clock() + SECOND) is False
        self.lead(ledger, one)  # renewing wakes nobody
        assert self.sleeps_until(ledger) == ledger.clock() + SECOND
        ledger.clock.advance(10)
        self.lead(ledger, other)  # who takes it is awake
        assert self.sleeps_until(ledger) == 0

    def sleeps_until(self, ledger: Ledger) -> int:
        (row,) = ledger.rows(schema.leader)
        return int(row.sleeps_until)

    def test_is_one_though_many_ask_at_once(self, pg_ledger: Ledger) -> None:
        barrier = threading.Barrier(6)
        found: list[int | None] = []

        def ask() -> None:
            barrier.wait(LIMIT_S)
            found.append(self.lead(pg_ledger, new_id()))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert sorted(found, key=str) == [1, None, None, None, None, None]
