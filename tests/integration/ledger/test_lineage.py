"""A ledger that was restored or failed over with loss: it is noticed, nothing goes, and recover puts it right."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from sendq.clock import SECOND, Micros
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.dispatching import lineage, workers
from sendq.ledger.dispatching.lineage import Standing
from sendq.ledger.operators import recover
from sendq.rules.paces import Paces
from sendq.rules.states import Event, State
from tests.integration.loops.test_dispatcher import LEASE_S, Monotonic, Wakeup
from tests.support.ledger import Ledger, end, outcome
from worker.leading.dispatcher import Dispatcher
from worker.leading.leadership import Leadership


class RenewalWitness:
    """What Redis remembers, without a Redis."""

    def __init__(self) -> None:
        self.counts: dict[UUID, int] = {}
        self.away = False

    def renewals_of(self, line: UUID) -> int | None:
        return None if self.away else self.counts.get(line, 0)

    def remember(self, line: UUID, renewals: int) -> None:
        if not self.away:
            self.counts[line] = renewals


class House:
    """One process that may lead, over a ledger that can be set back."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.monotonic, self.witness = ledger, Monotonic(), RenewalWitness()
        self.offered: list[UUID] = []
        self.worker = new_id()
        self.known: Micros = 0  # the time of what was enqueued last
        with ledger.writing() as connection:
            load = workers.Load(capacity=10)
            workers.register(connection, self.worker, name="w", pid=1, version="0", load=load, now=ledger.clock())
        self.leadership = Leadership(
            ledger.engine,
            holder=lambda: self.worker,
            now=ledger.clock,
            monotonic=self.monotonic,
            lease_s=LEASE_S,
            poll_s=0.2,
            witness=self.witness,
        )
        self.dispatcher = Dispatcher(
            ledger.engine,
            lambda bundles: self.offered.extend(turn.lane_id for bundle in bundles for turn in bundle),
            Wakeup(),
            leadership=self.leadership,
            holder=lambda: self.worker,
            now=ledger.clock,
            poll_s=0.2,
            bundle_turns=50,
            bundle_slots=100,
            paces=Paces(),
        )

    def renew(self, times: int = 1) -> None:
        for _ in range(times):
            self.monotonic.at += LEASE_S / 3
            self.ledger.clock.advance(LEASE_S / 3)
            self.dispatcher.run_once()

    def set_back(self, renewals: int = 1) -> None:
        """Restore a backup of the leader's row."""
        with self.ledger.writing() as connection:
            connection.execute(schema.leader.update().values(renewals=renewals))

    @property
    def standing(self) -> Standing:
        with self.ledger.writing() as connection:
            return lineage.read(connection)


@pytest.fixture
def house(ledger: Ledger) -> House:
    return House(ledger)


class TestALedgerThatIsWhole:
    def test_is_served(self, house: House) -> None:
        house.ledger.send()
        house.renew()
        assert len(house.offered) == 1
        assert house.leadership.serves

    def test_tells_its_witness_how_far_it_is_after_each_renewal(self, house: House) -> None:
        house.renew(3)
        found = house.standing
        assert found.line is not None
        assert house.witness.counts == {found.line: found.renewals}
        assert found.renewals == 3

    def test_is_served_on_with_a_redis_that_forgot_everything(self, house: House) -> None:
        house.renew(3)
        house.witness.counts.clear()
        house.renew()
        assert house.leadership.serves
        assert list(house.witness.counts.values()) == [4]

    def test_waits_for_a_witness_that_does_not_answer_at_first(self, house: House) -> None:
        house.witness.away = True
        house.ledger.send()
        house.renew()
        assert not house.offered
        house.witness.away = False
        house.renew()
        assert len(house.offered) == 1

    def test_is_served_on_while_its_witness_is_away_later(self, house: House) -> None:
        house.renew()
        house.witness.away = True
        house.ledger.send()
        house.renew()
        assert len(house.offered) == 1


class TestALossOfOneRenewal:
    def test_is_noticed(self, house: House) -> None:
        house.renew(2)
        house.set_back(house.standing.renewals - 1)
        house.renew()
        assert not house.leadership.serves


class TestALedgerThatHasLostSomething:
    @pytest.fixture
    def lost(self, house: House) -> House:
        house.renew(5)
        house.set_back()
        house.ledger.send()
        house.known = house.ledger.clock()
        house.renew()
        return house

    def test_is_shut_and_deals_out_nothing(self, lost: House) -> None:
        assert lost.offered == []
        assert lost.standing.shut_at == lost.ledger.clock()
        assert not lost.leadership.serves

    def test_stays_shut_however_far_its_count_comes_again(self, lost: House) -> None:
        lost.renew(10)
        assert lost.offered == []
        assert lost.standing.shut_at is not None

    def test_says_until_when_it_knows_what_happened(self, lost: House) -> None:
        assert lost.standing.known_until == lost.known

    def test_counts_what_was_enqueued_while_no_worker_ran_as_known(self, house: House) -> None:
        house.renew(5)
        house.set_back()
        house.ledger.clock.advance(600)
        house.ledger.send()
        at = house.ledger.clock()
        house.renew()
        assert house.standing.known_until == at

    def test_says_so_to_whoever_asks_why(self, lost: House) -> None:
        (job,) = lost.ledger.rows(schema.job)
        why = lost.ledger.queue.why(str(job.id))
        assert why.reason == "shut"
        assert "sendq recover" in why.says

    def test_gives_no_turn_to_a_message_from_the_time_that_it_forgot(self, house: House) -> None:
        house.ledger.send()
        offered = house.ledger.offer()
        with house.ledger.writing() as connection:
            lineage.shut(connection, known_until=0, now=house.ledger.clock())
        assert house.ledger.claim(offered) == []
        assert house.ledger.lane().turn == "offered"

    def test_goes_on_when_it_was_put_right(self, lost: House) -> None:
        with lost.ledger.writing() as connection:
            recover.open_again(connection, by="anna", reason="restored", now=lost.ledger.clock())
        lost.renew(2)
        assert len(lost.offered) == 1
        (event,) = lost.ledger.rows(schema.event)
        assert (event.kind, event.by, event.reason) == ("recovered", "anna", "restored")

    def test_is_noticed_again_when_a_backup_from_before_that_is_restored(self, lost: House) -> None:
        before = lost.standing
        with lost.ledger.writing() as connection:
            recover.open_again(connection, by="anna", reason="restored", now=lost.ledger.clock())
        lost.renew(2)
        with lost.ledger.writing() as connection:
            old = {"line": before.line, "renewals": 1, "shut_at": None, "known_until": None}
            connection.execute(schema.leader.update().values(old))
        lost.renew()
        assert not lost.leadership.serves


class TestRecovering:
    def recover(self, ledger: Ledger, since: Micros, limit: int = 500) -> recover.Unfinished:
        sends = changes = 0
        after = None
        while True:
            with ledger.writing() as connection:
                part, after = recover.put_in_doubt(
                    connection, since=since, now=ledger.clock(), after=after, limit=limit
                )
            sends, changes = sends + part.sends, changes + part.changes
            if after is None:
                return recover.Unfinished(sends, changes)

    def test_puts_every_send_in_doubt_that_was_not_finished(self, ledger: Ledger) -> None:
        done = ledger.send()
        ledger.finish(ledger.serve())
        ledger.clock.advance(10)
        waits, runs = ledger.send("a"), ledger.send("b")
        ledger.claim([turn for turn in ledger.offer() if turn.lane_id == ledger.lane("b").id])
        since = ledger.clock()
        ledger.clock.advance(3600)
        new = ledger.send("a")
        assert self.recover(ledger, since) == recover.Unfinished(2, 0)
        states = [ledger.state(job) for job in (done, waits, runs, new)]
        assert states == [State.SENT, State.IN_DOUBT, State.IN_DOUBT, State.QUEUED]

    def test_has_them_looked_for_as_if_they_were_asked_for_just_now(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.clock.advance(3600)
        self.recover(ledger, ledger.clock() - 1800 * SECOND)
        row = ledger.job(job)
        assert (row.rule, row.key_at, row.doubt_at, row.look_at) == ("recovered", ledger.clock(), ledger.clock(), None)
        (attempt,) = ledger.queue.job(str(job)).trail
        assert (attempt.rule, attempt.sent) == ("recovered", "maybe")

    def test_covers_what_was_enqueued_between_its_last_sign_of_life_and_the_loss(self, ledger: Ledger) -> None:
        since = ledger.clock()
        ledger.clock.advance(2)
        job = ledger.send()
        self.recover(ledger, since)
        assert ledger.state(job) is State.IN_DOUBT

    def test_returns_changes_that_were_begun_and_leaves_those_that_wait(self, ledger: Ledger) -> None:
        one, other = ledger.modify("g1", ["m1", "m2"])
        claimed = ledger.serve(jobs_each=1)
        begun = claimed.jobs[0].id
        assert begun in (one, other)
        assert self.recover(ledger, ledger.clock()) == recover.Unfinished(0, 1)
        assert {ledger.state(job) for job in (one, other)} == {State.QUEUED}

    def test_can_be_repeated_and_counts_what_is_left(self, ledger: Ledger) -> None:
        for _ in range(5):
            ledger.send()
        since = ledger.clock()
        with ledger.writing() as connection:
            assert recover.count(connection, since=since) == recover.Unfinished(5, 0)
        ledger.clock.advance(1)
        assert self.recover(ledger, since, limit=2) == recover.Unfinished(5, 0)
        assert self.recover(ledger, since) == recover.Unfinished(0, 0)

    def test_begins_the_wait_anew_for_what_was_in_doubt_already(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        ledger.set_job(job, look_at=1, misses=1, looks=3)
        ledger.clock.advance(3600)
        self.recover(ledger, ledger.clock())
        assert (ledger.job(job).doubt_at, ledger.job(job).look_at) == (ledger.clock(), None)


class TestTheHighestTime:
    def see(self, ledger: Ledger, at: Micros) -> Micros:
        with ledger.writing() as connection:
            lineage.see(connection, at)
            return lineage.read(connection).highest_at

    def test_only_grows(self, ledger: Ledger) -> None:
        now = ledger.clock()
        assert self.see(ledger, now) == now
        assert self.see(ledger, now - 3600 * SECOND) == now
        assert self.see(ledger, now + 3600 * SECOND) == now + 3600 * SECOND

    def test_is_not_written_for_every_moment(self, ledger: Ledger) -> None:
        now = ledger.clock()
        self.see(ledger, now)
        assert self.see(ledger, now + SECOND // 2) == now


def test_every_column_of_the_standing_is_read(ledger: Ledger) -> None:
    values: dict[str, Any] = {
        "line": new_id(), "renewals": 2, "renewed_at": 3, "shut_at": 4, "known_until": 5, "highest_at": 6,
    }  # fmt: skip
    with ledger.writing() as connection:
        connection.execute(schema.leader.update().values(**values))
        assert lineage.read(connection) == Standing(**values)
