"""A ledger that was restored or failed over with loss: it is noticed, nothing goes, and recover puts it right."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sendq import NEVER, Operators, clock
from sendq.clock import SECOND, Micros, moment
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import lineage, workers
from sendq.ledger.dispatching.lineage import Incomplete, Standing
from sendq.ledger.doubt import Ending, settle
from sendq.ledger.operators import recover
from sendq.rules.paces import Paces
from sendq.rules.states import Event, State
from tests.integration.loops.test_dispatcher import LEASE_S, Monotonic, Wakeup
from tests.support.ledger import Ledger, end, outcome
from worker.leading.dispatcher import Dispatcher
from worker.leading.leadership import Leadership
from worker.leading.renewal_file import RenewalFile

# Longer than the API remembers keys.
LONG_AGO_S = 7200.0


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
        self.start()

    def stop(self) -> None:
        self.dispatcher.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def start(self) -> None:
        """Start the process: what an earlier one remembered is gone, and its lease is over."""
        self.ledger.clock.advance(LEASE_S)
        self.leadership = Leadership(
            self.ledger.engine,
            holder=lambda: self.worker,
            now=self.ledger.clock,
            monotonic=self.monotonic,
            lease_s=LEASE_S,
            poll_s=0.2,
            witnesses=[self.witness],
        )
        self.dispatcher = Dispatcher(
            self.ledger.engine,
            lambda bundles: self.offered.extend(turn.lane_id for bundle in bundles for turn in bundle),
            Wakeup(),
            leadership=self.leadership,
            holder=lambda: self.worker,
            now=self.ledger.clock,
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

    def set_back(self, renewals: int = 1, *, age_s: float = LONG_AGO_S) -> None:
        """Restore a backup of the leader's row, made ``age_s`` ago."""
        made_at = self.ledger.clock() - clock.seconds(age_s)
        with self.ledger.writing() as connection:
            connection.execute(
                schema.leader.update().values(renewals=renewals, renewed_at=made_at, complete_at=made_at)
            )

    def change_server(self, run: str) -> None:
        """Let the ledger have been complete on another run of a server than the present one."""
        with self.ledger.writing() as connection:
            connection.execute(schema.leader.update().values(proven_on=run))

    @property
    def standing(self) -> Standing:
        with self.ledger.writing() as connection:
            return lineage.read(connection)


@pytest.fixture
def house(ledger: Ledger) -> Iterator[House]:
    house = House(ledger)
    yield house
    house.stop()


@pytest.fixture
def pg_house(pg_ledger: Ledger) -> Iterator[House]:
    house = House(pg_ledger)
    yield house
    house.stop()


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
            lineage.shut(connection, because=Incomplete.LOST, lost_since=0, now=house.ledger.clock())
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


class TestALedgerThatNobodyRemembers:
    """Restored, with an empty Redis and new workers."""

    def restored(self, house: House, *, age_s: float, run: str | None = None) -> UUID:
        house.renew(5)
        job = house.ledger.send()
        house.set_back(4, age_s=age_s)
        if run is not None:
            house.change_server(run)
        house.witness.counts.clear()
        house.restart()
        house.renew()
        return job

    def test_is_shut(self, house: House) -> None:
        self.restored(house, age_s=LONG_AGO_S, run="00000001:1@1")
        assert house.offered == []
        assert (house.standing.shut_because, house.leadership.serves) == (Incomplete.UNPROVEN, False)

    def test_is_served_on_after_an_operators_word_that_nothing_was_lost(self, house: House) -> None:
        job = self.restored(house, age_s=LONG_AGO_S, run="00000001:1@1")
        run = Operators(house.ledger.engine, now=house.ledger.clock).recover(None, by="anna", reason="a new Redis")
        assert run.finish().open
        house.renew(2)
        assert len(house.offered) == 1
        assert house.ledger.job(job).doubt_at is None

    def test_is_served_if_its_server_has_run_ever_since(self, pg_house: House) -> None:
        house = pg_house
        self.restored(house, age_s=LONG_AGO_S)
        assert len(house.offered) == 1

    def test_is_served_if_the_server_was_only_restarted_and_redis_remembers(self, pg_house: House) -> None:
        house = pg_house
        house.renew(5)
        house.ledger.send()
        run = house.standing.server
        assert run is not None
        house.change_server(f"{run.partition('@')[0]}@1")
        house.restart()
        house.renew()
        assert len(house.offered) == 1
        assert house.standing.proven_on == run

    def test_is_not_served_because_redis_remembers_an_older_state(self, house: House) -> None:
        house.renew(9)
        house.change_server("00000001:1@1")
        house.witness.counts = dict.fromkeys(house.witness.counts, 3)
        house.restart()
        house.renew()
        assert house.standing.shut_because == Incomplete.UNPROVEN

    def test_is_served_when_it_is_new(self, house: House) -> None:
        house.ledger.send()
        house.renew()
        assert len(house.offered) == 1

    def test_does_not_count_the_time_since_its_restoring_as_known(self, house: House) -> None:
        house.renew(5)
        house.set_back(4)
        made_at = house.standing.complete_at
        house.change_server("00000001:1@1")
        house.witness.counts.clear()
        house.witness.away = True
        house.restart()
        house.renew(10)
        house.witness.away = False
        house.renew()
        assert house.standing.lost_since == made_at


class TestAnotherServer:
    """A replica that took over, whose last moments nobody can prove, however much Redis and the workers remember."""

    @pytest.fixture
    def house(self, pg_house: House) -> House:
        return pg_house

    def taken_over(self, house: House, *, age_s: float = 1) -> UUID:
        house.renew(5)
        job = house.ledger.send()
        house.set_back(house.standing.renewals, age_s=age_s)
        house.change_server("00000001:1@1")
        house.renew()
        return job

    def test_claims_nothing_before_it_is_repaired(self, house: House) -> None:
        house.ledger.send()
        offered = house.ledger.offer()
        house.change_server("00000001:1@1")
        assert house.ledger.claim(offered) == []

    def test_repeats_what_may_have_gone_out_under_its_own_key(self, house: House) -> None:
        job = self.taken_over(house)
        lost_since = house.standing.lost_since
        house.renew(2)
        row = house.ledger.job(job)
        assert (row.state, row.generation, row.key_at, row.doubt_at is None) == ("queued", 0, lost_since, False)
        (attempt,) = house.ledger.queue.job(str(job)).trail
        assert (attempt.rule, attempt.sent) == ("recovered", "maybe")
        assert len(house.offered) == 1
        assert house.leadership.serves

    def test_repeats_later_what_is_due_while_its_key_is_young(self, house: House) -> None:
        later = house.ledger.send(due_at=moment(house.ledger.clock() + 600 * SECOND))
        self.taken_over(house)
        house.renew(2)
        row = house.ledger.job(later)
        assert (row.state, row.doubt_at is None, row.next_at) == ("queued", False, row.due_at)

    def test_searches_at_once_for_what_is_held_or_due_when_its_key_is_too_old(self, house: House) -> None:
        later = house.ledger.send(due_at=moment(house.ledger.clock() + 3600 * SECOND), expires_at=NEVER)
        held = house.ledger.send()
        house.ledger.queue.hold(str(held))
        self.taken_over(house)
        house.renew(2)
        assert {(row.state, row.rule) for row in map(house.ledger.job, (later, held))} == {("in_doubt", "recovered")}
        with house.ledger.writing() as connection:
            ending = Ending(Event.RETURN, "not_found")
            settle(connection, {later: ending, held: ending}, by="reconcile", now=house.ledger.clock())
        assert house.ledger.queue.release(str(held)) == 1
        assert house.ledger.queue.reschedule(str(later), due_at=None) == 1

    def test_keeps_the_age_of_a_key_that_was_used_before(self, house: House) -> None:
        house.renew(5)
        job = house.ledger.send()
        used_at = house.ledger.clock() - 600 * SECOND
        house.ledger.set_job(job, key_at=used_at, doubt_at=used_at)
        house.change_server("00000001:1@1")
        house.renew(3)
        assert house.ledger.job(job).key_at == used_at

    def test_searches_again_for_what_was_in_doubt(self, house: House) -> None:
        job = house.ledger.send()
        claimed = house.ledger.serve()
        house.ledger.record(outcome(claimed, claimed.jobs[0], Event.DOUBT, sent="maybe"), ends=[end(claimed)])
        house.renew(5)
        house.change_server("00000001:1@1")
        house.renew(3)
        assert house.ledger.job(job).rule == "recovered"
        assert house.ledger.job(job).state == "in_doubt"

    def test_repairs_any_number_of_jobs(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recover, "repeat_by_key", partial(recover.repeat_by_key, limit=2))
        house.renew(5)
        jobs = [house.ledger.send(f"g{number}") for number in range(5)]
        house.change_server("00000001:1@1")
        house.renew(1)
        for _ in range(6):
            house.dispatcher.run_once()
        assert all(house.ledger.job(job).doubt_at for job in jobs)
        assert house.offered

    def test_stays_shut_if_the_loss_is_older_than_the_keys(self, house: House) -> None:
        self.taken_over(house, age_s=LONG_AGO_S)
        house.renew(5)
        assert house.offered == []
        assert house.standing.shut_because == Incomplete.UNPROVEN

    def test_is_noted_in_the_ledgers_events(self, house: House) -> None:
        self.taken_over(house)
        house.renew(2)
        (event,) = house.ledger.rows(schema.event)
        assert (event.kind, event.by) == ("recovered", "sendq")


class TestALeaderThatWasFrozen:
    def test_does_not_shut_a_ledger_that_another_process_has_renewed_meanwhile(self, house: House) -> None:
        house.renew(3)
        found = house.standing
        house.set_back(found.renewals + 2, age_s=0)
        with house.ledger.writing() as connection:
            assert not lineage.shut(
                connection, because=Incomplete.LOST, lost_since=0, now=house.ledger.clock(), renewals=found.renewals
            )
        assert house.standing.shut_at is None

    def test_shuts_one_that_has_not_been_renewed(self, house: House) -> None:
        house.renew(3)
        renewals = house.standing.renewals
        with house.ledger.writing() as connection:
            assert lineage.shut(
                connection, because=Incomplete.LOST, lost_since=0, now=house.ledger.clock(), renewals=renewals
            )


class TestANewLedgerWithoutRedis:
    def test_is_served_once_redis_answers(self, house: House) -> None:
        house.witness.away = True
        house.ledger.send()
        for _ in range(4):
            house.restart()
            house.renew()
        house.witness.away = False
        house.renew()
        assert len(house.offered) == 1


class TestKeysThatWorkersHaveMovedOn:
    def test_are_not_used_again(self, ledger: Ledger) -> None:
        moved, same, newer = (ledger.send(f"g{number}") for number in range(3))
        ledger.set_job(newer, generation=5)
        with ledger.writing() as connection:
            recover.keep_generations(connection, {moved: 2, newer: 3, new_id(): 1})
        assert [ledger.job(job).generation for job in (moved, same, newer)] == [2, 0, 5]

    def test_are_those_of_jobs_that_wait(self, ledger: Ledger) -> None:
        job = ledger.send()
        ledger.serve()
        with ledger.writing() as connection:
            recover.keep_generations(connection, {job: 2})
        assert ledger.job(job).generation == 0


class TestALaneThatARestoredLedgerDoesNotKnow:
    def test_does_not_lose_what_is_known_of_its_jobs(self, ledger: Ledger) -> None:
        job = ledger.send()
        claimed = ledger.serve()
        ledger.set_job(job, state="queued", turn=None, begun_at=None)
        with ledger.writing() as connection:
            connection.execute(schema.lane.delete())
        ledger.record(outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes", message_id="m1"))
        assert (ledger.state(job), ledger.job(job).message_id) == (State.SENT, "m1")


class TestTheRun:
    def test_of_a_server_names_its_timeline_its_file_and_its_start(self, pg_ledger: Ledger) -> None:
        with pg_ledger.writing() as connection:
            assert re.fullmatch(r"[0-9A-F]{8}:\d+@\d+\.\d+", lineage.read(connection).server or "")

    def test_of_sqlite_is_unknown(self, sqlite_ledger_url: str) -> None:
        engine = open_engine(sqlite_ledger_url)
        with engine.begin() as connection:
            assert lineage.read(connection).server is None
        engine.dispose()


class TestTheFileBesideTheLedger:
    @pytest.fixture
    def ledger_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "ledger.db"
        path.touch()
        return path

    def test_remembers(self, ledger_file: Path) -> None:
        line = new_id()
        RenewalFile(str(ledger_file)).remember(line, 7)
        assert RenewalFile(str(ledger_file)).renewals_of(line) == 7

    def test_knows_nothing_of_another_line(self, ledger_file: Path) -> None:
        RenewalFile(str(ledger_file)).remember(new_id(), 7)
        assert RenewalFile(str(ledger_file)).renewals_of(new_id()) == 0

    def test_knows_nothing_in_a_copy_of_the_directory(self, ledger_file: Path, tmp_path: Path) -> None:
        line = new_id()
        RenewalFile(str(ledger_file)).remember(line, 7)
        shutil.copytree(tmp_path, copy := tmp_path / "copy")
        assert RenewalFile(str(copy / "ledger.db")).renewals_of(line) == 0

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b'{"line": 1}', b"\xff"])
    def test_knows_nothing_if_it_cannot_be_read(self, ledger_file: Path, content: bytes) -> None:
        Path(f"{ledger_file}-renewals").write_bytes(content)
        assert RenewalFile(str(ledger_file)).renewals_of(new_id()) == 0

    def test_can_be_read_by_its_owner_alone(self, ledger_file: Path) -> None:
        RenewalFile(str(ledger_file)).remember(new_id(), 7)
        assert Path(f"{ledger_file}-renewals").stat().st_mode & 0o777 == 0o600


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
        "line": new_id(), "renewals": 2, "complete_at": 3, "shut_at": 4, "shut_because": "lost", "lost_since": 5,
        "known_until": 6, "highest_at": 7, "proven_on": "00000001:1@1",
    }  # fmt: skip
    with ledger.writing() as connection:
        connection.execute(schema.leader.update().values(**values))
        assert replace(lineage.read(connection), server=None) == Standing(**values, server=None)
