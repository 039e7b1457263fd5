"""Rounds of the dispatcher: a job that comes alone is claimed at once, and as it would be in any other way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection

from sendq.clock import SECOND, moment
from sendq.facts.lanes import Lane
from sendq.facts.turns import Claimed
from sendq.ledger import grants
from sendq.ledger.db import schema
from sendq.ledger.dispatching import workers
from sendq.ledger.dispatching.offers import give_back
from sendq.ledger.dispatching.turns import claim_at_once
from sendq.rules.pace import PROVEN_FOR
from sendq.rules.paces import Paces
from tests.integration.loops.test_dispatcher import statements
from tests.support.ledger import Ledger, until_it_waits
from tests.support.waiting import LIMIT_S
from worker.leading.rounds import AT_ONCE_MOST, Round, Rounds

CAPACITY = 10


class Dealer:
    """Rounds of a ledger whose turns are claimed for this process, if that is possible at once."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.claimed: list[Claimed] = []
        self.declines = False
        self.rounds = Rounds(ledger.engine, now=ledger.clock, paces=Paces(), claim_at_once=self.claim)

    def claim(
        self, connection: Connection, offered: Sequence[Lane], _busy: float, _until_over: ExitStack
    ) -> Callable[[], None] | None:
        if self.declines:
            return None
        now = self.ledger.clock()
        found = claim_at_once(connection, offered, worker=self.ledger.worker, now=now, jobs_each=10)
        return (lambda: self.claimed.extend(found)) if found else None

    def run(self) -> Round:
        """A round after a commit has notified."""
        self.rounds.expects_wakes = True
        return self.rounds.run()

    def finish(self) -> None:
        """End all turns well."""
        while self.claimed:
            self.ledger.finish(self.claimed.pop())


@pytest.fixture
def dealer(ledger: Ledger) -> Iterator[Dealer]:
    """With free slots, and lanes g1 to g3 of a pair that works, of which none is due."""
    with ledger.writing() as connection:
        load = workers.Load(capacity=CAPACITY)
        workers.register(connection, ledger.worker, name="w", pid=1, version="0", load=load, now=ledger.clock())
    for number in (1, 2, 3):
        ledger.send(f"g{number}", provider="google")
        ledger.finish(ledger.serve())
    set_pair(ledger, ramp=None, proven_at=ledger.clock())
    ledger.clock.advance(1)
    dealer = Dealer(ledger)
    yield dealer
    dealer.rounds.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def set_pair(ledger: Ledger, **values: Any) -> None:
    with ledger.writing() as connection:
        connection.execute(schema.pair.update().values(**values))


def set_capacity(ledger: Ledger, capacity: int) -> None:
    with ledger.writing() as connection:
        connection.execute(schema.worker.update().values(capacity=capacity))


def lane_facts(ledger: Ledger, grant: str) -> dict[str, Any]:
    """A lane without its name."""
    return {name: value for name, value in ledger.lane(grant)._mapping.items() if name not in ("id", "grant_id")}


def job_facts(ledger: Ledger, grant: str) -> list[dict[str, Any]]:
    """The jobs of a lane without their names."""
    rows = [row._mapping for row in ledger.rows(schema.job) if row.lane_id == ledger.lane(grant).id]
    return [{name: value for name, value in row.items() if name not in ("id", "lane_id", "key")} for row in rows]


class TestALoneJob:
    def test_is_claimed_in_four_statements_on_postgresql(self, dealer: Dealer) -> None:
        dealer.ledger.send("g1", provider="google")
        with statements(dealer.ledger) as seen:
            dealer.run()
        assert len(dealer.claimed) == 1
        writes = [one.split()[0] for one in seen if "UPDATE sendq_lane" in one]
        assert len(writes) == 1  # its lane is written once
        if dealer.ledger.engine.dialect.name == "postgresql":
            assert len(seen) == 4

    def test_is_claimed_as_any_other(self, dealer: Dealer) -> None:
        ledger = dealer.ledger
        ledger.send("g2", provider="google")
        ledger.absorb()
        dealer.run()  # its lane was due already
        ledger.send("g1", provider="google")
        dealer.run()
        assert lane_facts(ledger, "g1") == lane_facts(ledger, "g2")
        assert job_facts(ledger, "g1") == job_facts(ledger, "g2")
        usual, lone = dealer.claimed
        assert (lone.slots, lone.streak, len(lone.jobs), len(lone.begun)) == (usual.slots, usual.streak, 1, 1)
        assert ledger.rows(schema.wake) == []

    @pytest.mark.parametrize("priority", ["high", "normal", "low"])
    def test_leaves_its_lane_due_for_what_comes_later(self, dealer: Dealer, priority: str) -> None:
        ledger = dealer.ledger
        later = ledger.clock() + 60 * SECOND
        ledger.send("g1", provider="google", priority=priority, due_at=moment(later))
        ledger.send("g1", provider="google")
        dealer.run()
        (claimed,) = dealer.claimed
        assert len(claimed.jobs) == 1
        dealer.finish()
        assert ledger.lane("g1").next_at == later

    def test_is_not_looked_for_a_second_time(self, dealer: Dealer) -> None:
        dealer.ledger.send("g1", provider="google")
        first, second, third = dealer.run(), dealer.rounds.run(), dealer.rounds.run()
        assert [one.woken for one in (first, second, third)] == [1, 0, 0]
        assert [len(one.turns) for one in (first, second, third)] == [1, 0, 0]

    def test_of_a_lane_that_another_has_locked_waits_and_sees_what_that_has_written(
        self, dealer: Dealer, run: Callable[..., Future[Any]]
    ) -> None:
        if dealer.ledger.engine.dialect.name != "postgresql":
            pytest.skip("SQLite has one writer at a time")
        ledger = dealer.ledger
        ledger.send("g1", provider="google")
        table = schema.lane
        with ledger.engine.begin() as other:
            this = table.c.grant_id == "g1"
            other.execute(table.update().where(this).values(fence=table.c.fence + 5))
            round_ = run(dealer.run)
            until_it_waits(ledger, round_)
        round_.result(LIMIT_S)
        assert [one.lane.fence for one in dealer.claimed] == [7]  # one turn before, five of the other, and this
        assert ledger.lane("g1").fence == 7


class TestSeveralLoneJobs:
    def test_are_claimed_together(self, dealer: Dealer) -> None:
        for grant in ("g1", "g2", "g1", "g3"):
            dealer.ledger.send(grant, provider="google")
        done = dealer.run()
        assert {one.lane.grant_id: len(one.jobs) for one in dealer.claimed} == {"g1": 2, "g2": 1, "g3": 1}
        assert (len(done.turns), done.full) == (3, False)

    def test_are_taken_in_together_if_they_are_many(self, dealer: Dealer) -> None:
        for _ in range(3 * AT_ONCE_MOST):
            dealer.ledger.send("g1", provider="google")
        first, second = dealer.run(), dealer.run()
        assert first.may_have_left_wakes
        assert first.woken + second.woken == 3 * AT_ONCE_MOST
        assert not dealer.claimed or len(dealer.claimed) == 1


Remedy = Callable[[], object]


def held(dealer: Dealer) -> Remedy:
    set_pair(dealer.ledger, held_until=dealer.ledger.clock() + SECOND)
    return lambda: dealer.ledger.clock.advance(2)


def proving_itself(dealer: Dealer) -> Remedy:
    set_pair(dealer.ledger, ramp=1)
    return dealer.finish


def unproven(dealer: Dealer) -> Remedy:
    set_pair(dealer.ledger, proven_at=dealer.ledger.clock() - PROVEN_FOR)
    return dealer.finish


def without_slots(dealer: Dealer) -> Remedy:
    set_capacity(dealer.ledger, 0)
    return lambda: set_capacity(dealer.ledger, CAPACITY)


def declined(dealer: Dealer) -> Remedy:
    ledger, dealer.declines = dealer.ledger, True

    def remedy() -> None:
        lane, dealer.declines = ledger.lane("g1"), False
        with ledger.writing() as connection:
            give_back(connection, [(lane.id, lane.fence)], now=ledger.clock())

    return remedy


def with_another_due(dealer: Dealer) -> Remedy:
    dealer.ledger.send("g2", provider="google")
    dealer.ledger.absorb()
    return dealer.finish


def of_a_lane_with_a_turn(dealer: Dealer) -> Remedy:
    dealer.ledger.send("g1", provider="google")
    dealer.run()
    return dealer.finish


def of_a_held_lane(dealer: Dealer) -> Remedy:
    dealer.ledger.set_lane("g1", held_until=dealer.ledger.clock() + SECOND)
    return lambda: dealer.ledger.clock.advance(2)


def of_a_closed_lane(dealer: Dealer) -> Remedy:
    ledger, lane = dealer.ledger, dealer.ledger.lane("g1").id
    with ledger.writing() as connection:
        grants.close(connection, lane, rule="grant_expired", by="webhook", now=ledger.clock())

    def remedy() -> None:
        with ledger.writing() as connection:
            grants.reopen(connection, lane, by="webhook", now=ledger.clock())
        ledger.clock.advance(60)

    return remedy


def of_a_new_lane(dealer: Dealer) -> Remedy:
    with dealer.ledger.writing() as connection:
        connection.execute(schema.lane.delete().where(schema.lane.c.grant_id == "g1"))
    return dealer.finish


# With the state of the lane's turn after the round that takes in the job, and whether the job is begun then.
REASONS = [
    (held, None, False), (proving_itself, "claimed", True), (unproven, "claimed", True), (without_slots, None, False),
    (declined, "offered", False), (with_another_due, "claimed", True), (of_a_lane_with_a_turn, "claimed", False),
    (of_a_held_lane, None, False), (of_a_closed_lane, None, False), (of_a_new_lane, "claimed", True),
]  # fmt: skip


class TestALoneJobWithMoreToDecide:
    @pytest.mark.parametrize(("reason", "turn", "is_begun"), REASONS)
    def test_is_served_like_any_other(
        self, dealer: Dealer, reason: Callable[[Dealer], Remedy], turn: str | None, is_begun: bool
    ) -> None:
        ledger = dealer.ledger
        remedy = reason(dealer)
        job = ledger.send("g1", provider="google", priority="high")
        dealer.run()
        assert (ledger.lane("g1").turn, ledger.rows(schema.wake)) == (turn, [])
        assert ledger.job(job).state == ("sending" if is_begun else "queued")
        remedy()
        done = dealer.rounds.run()  # nothing wakes its lane again
        if done.begin is None:
            dealer.claimed.extend(ledger.claim(done.turns))
        dealer.finish()
        assert ledger.job(job).state == "sent"
