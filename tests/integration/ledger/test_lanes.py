"""Lanes: how they learn of jobs, when they want a turn, and that `why` says what the dispatcher does."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from sendq import Retryable, Send
from sendq.clock import SECOND, Micros, moment
from sendq.facts.outcomes import Hold, Scope
from sendq.facts.turns import Claimed
from sendq.ids import new_id
from sendq.ledger.db import engine, schema
from sendq.ledger.dispatching import lanes, turns, workers
from sendq.ledger.dispatching.offers import Used, give_back, offer_turns, overview
from sendq.ledger.dispatching.pairs import read_pairs
from sendq.ledger.dispatching.waking import take_wakes
from sendq.rules.floors import Floors
from sendq.rules.pace import pace_of
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, START, Ledger, end, outcome

MINUTE = 60 * SECOND
PRIORITIES = ("high", "normal", "low")


class TestNewJobs:
    def test_make_their_lane_with_the_pace_of_its_provider(self, ledger: Ledger) -> None:
        ledger.send("g1", provider="google")
        ledger.send("g2")
        assert ledger.absorb() == 2
        assert (ledger.lane("g1").provider, ledger.lane("g1").width) == ("google", pace_of("google").width)
        assert (ledger.lane("g2").provider, ledger.lane("g2").width) == ("unknown", pace_of("unknown").width)
        assert ledger.rows(schema.wake) == []

    def test_are_taken_in_step_by_step(self, ledger: Ledger) -> None:
        for n in range(5):
            ledger.send(f"g{n}")
        with ledger.writing() as connection:
            assert len(take_wakes(connection, limit=3)) == 3
            assert len(take_wakes(connection, limit=3)) == 2
            assert take_wakes(connection, limit=3) == []

    def test_are_taken_in_step_by_step_whatever_the_plan(self, pg_ledger: Ledger) -> None:
        for n in range(5):
            pg_ledger.send(f"g{n}")
        with pg_ledger.writing() as connection:
            for way in ("hashjoin", "mergejoin", "hashagg", "material", "sort"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
            assert len(take_wakes(connection, limit=3)) == 3

    def test_are_told_in_rows_whose_ids_never_go_back(self, ledger: Ledger) -> None:
        """The dispatcher looks above what it took (`sendq.rules.floors`), also when nothing was left of it."""
        ledger.send("g1")
        (first,) = ledger.rows(schema.wake)
        ledger.absorb()
        ledger.send("g2")
        (second,) = ledger.rows(schema.wake)
        assert second.id > first.id

    def test_may_say_later_what_their_provider_is(self, ledger: Ledger) -> None:
        ledger.send("g1")
        ledger.absorb()
        ledger.send("g1", provider="google")
        ledger.send("g1")
        ledger.absorb()
        assert (ledger.lane().provider, ledger.lane().width) == ("google", pace_of("google").width)
        ledger.send("g1", provider="ews")  # a lane keeps what it knows
        ledger.absorb()
        assert ledger.lane().provider == "google"

    def test_make_a_lane_due_no_later_than_its_first_job(self, ledger: Ledger) -> None:
        later = moment(ledger.clock()) + timedelta(hours=1)
        ledger.send(due_at=later)
        ledger.absorb()
        assert ledger.lane().next_at == START + 60 * MINUTE
        ledger.send(due_at=later + timedelta(hours=1))
        ledger.absorb()
        assert ledger.lane().next_at == START + 60 * MINUTE
        ledger.send(due_at=later - timedelta(minutes=30))
        ledger.absorb()
        assert ledger.lane().next_at == START + 30 * MINUTE

    def test_do_not_end_a_hold(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.absorb()
        ledger.set_lane(held_until=START + MINUTE, next_at=None)
        ledger.send()
        ledger.absorb()
        assert ledger.lane().next_at == START + MINUTE

    @pytest.mark.parametrize("priority", PRIORITIES)
    def test_with_a_due_time_before_the_mark_are_found(self, ledger: Ledger, priority: str) -> None:
        """A transaction that began early and committed late."""
        early = ledger.clock()
        ledger.send(priority=priority)
        ledger.clock.advance(3_600)
        ledger.finish(ledger.serve())
        assert getattr(ledger.lane(), f"{priority}_floor") > early
        ledger.clock.at = early + 1
        late = ledger.send(priority=priority)
        ledger.clock.advance(3_600)
        assert [job.id for job in ledger.serve().jobs] == [late]


class TestSettling:
    def test_moves_the_marks_to_what_waits_first(self, ledger: Ledger) -> None:
        tomorrow = START + 24 * 60 * MINUTE
        ledger.send()
        ledger.send(priority="high", due_at=moment(tomorrow))
        ledger.clock.advance(1)
        ledger.finish(ledger.serve())
        lane = ledger.lane()
        assert (lane.high_floor, lane.normal_floor, lane.low_floor) == (tomorrow, ledger.clock(), ledger.clock())
        assert lane.next_at == tomorrow

    def test_puts_a_lane_that_is_due_behind_those_that_have_waited_longer(self, ledger: Ledger) -> None:
        ledger.queue.send_many([Send("g1", MESSAGE) for _ in range(10)])
        ledger.clock.advance(1)
        ledger.send("g2")
        ledger.clock.advance(1)
        first, second = ledger.offer()
        assert first.lane_id == ledger.lane("g1").id
        (claimed,) = ledger.claim([first], jobs_each=2)
        ledger.finish(claimed)
        with ledger.writing() as connection:
            give_back(connection, [(second.lane_id, second.fence)], now=ledger.clock() - SECOND)
        assert ledger.due() == [ledger.lane("g2").id, ledger.lane("g1").id]

    def test_waits_for_the_lanes_pace(self, ledger: Ledger) -> None:
        ledger.send(), ledger.send()
        claimed = ledger.serve(jobs_each=1)
        ready_at = ledger.clock() + 30 * SECOND
        ledger.record(
            outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes"), ends=[end(claimed, ready_at=ready_at)]
        )
        assert ledger.lane().next_at == ready_at

    def test_of_a_lane_where_nothing_waits_wants_no_turn(self, ledger: Ledger) -> None:
        ledger.send()
        ledger.finish(ledger.serve())
        assert ledger.lane().next_at is None
        assert ledger.offer() == []


class TestDueLanes:
    def test_of_a_held_pair_are_not_even_looked_at(self, ledger: Ledger) -> None:
        ledger.send("g1", provider="ews")
        ledger.send("g2", provider="google")
        ledger.absorb()
        with ledger.writing() as connection:
            ews = schema.pair.c.provider == "ews"
            connection.execute(schema.pair.update().where(ews).values(held_until=START + MINUTE))
            (held,) = [pair for pair in read_pairs(connection) if pair.provider == "ews"]
            assert (held.wants_at, held.next_at) == (START + MINUTE, START)
        assert ledger.due() == [ledger.lane("g2").id]

    def test_are_left_to_the_transaction_that_has_them_locked(self, pg_ledger: Ledger) -> None:
        pg_ledger.send()
        pg_ledger.absorb()
        with pg_ledger.writing() as connection:
            lanes.lock(connection, [pg_ledger.lane().id])
            assert pg_ledger.due() == []

    def test_use_the_slots_that_their_turns_take(self, ledger: Ledger) -> None:
        with ledger.writing() as connection:
            for capacity, stopping in ((10, False), (100, True)):
                load = workers.Load(capacity=capacity, stopping=stopping)
                workers.register(connection, new_id(), name="w", pid=1, version="0", load=load, now=START)
        ledger.send("g1", provider="google")
        ledger.send("g2", provider="ews")
        ledger.absorb()
        with ledger.writing() as connection:
            before = overview(connection, old_before=START, floors=Floors())
        assert (before.capacity, before.used, before.free) == (10, {}, 10)
        assert [pair.provider for pair in before.pairs] == ["ews", "google"]
        offered = ledger.offer()
        slots = {turn.lane_id: turn.slots for turn in offered}
        google, ews = slots[ledger.lane("g1").id], slots[ledger.lane("g2").id]
        with ledger.writing() as connection:
            seen = overview(connection, old_before=START, floors=Floors())
            assert seen.used == {
                ("default", "google"): Used(young=google, old=0),
                ("default", "ews"): Used(young=ews, old=0),
            }
            assert seen.free == 10 - google - ews
            later = overview(connection, old_before=START + 1, floors=Floors())
            assert later.used["default", "ews"] == Used(0, ews)
        for claimed in ledger.claim(offered):
            ledger.finish(claimed)
        with ledger.writing() as connection:
            assert overview(connection, old_before=START, floors=Floors()).used == {}


class TestAWriterOfSqlite:
    def test_takes_the_lock_before_it_reads(self, sqlite_ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that read first would find, when it comes to write, that what it read is old."""
        monkeypatch.setattr(engine, "SQLITE_BUSY_S", 0)
        opened = engine.open_engine(sqlite_ledger_url)
        with engine.writing(opened), pytest.raises(Retryable), engine.writing(opened):
            pytest.fail("two writers at once")
        with engine.writing(opened), engine.reading(opened) as connection:  # readers are in nobody's way
            assert connection.execute(select(schema.job)).all() == []
        opened.dispose()


class World:
    """A ledger in a random state, reached by what really happens to ledgers."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.chance = ledger, random.Random(seed)
        self.open: list[Claimed] = []
        with ledger.writing() as connection:
            load = workers.Load(capacity=500)
            workers.register(connection, ledger.worker, name="w", pid=1, version="0", load=load, now=START)
            workers.lead(connection, ledger.worker, now=START, lease=10_000 * MINUTE)

    def step(self) -> None:
        often = [self.send, self.modify, self.begin]
        self.chance.choice([*often, *often, self.ledger.absorb, self.end, self.hold_pair, self.advance, self.cancel])()

    def options(self) -> dict[str, Any]:
        due_at = (
            None if self.chance.random() < 0.7 else moment(self.ledger.clock() + self.chance.randint(1, 300) * SECOND)
        )
        return {"priority": self.chance.choice(PRIORITIES), "due_at": due_at}

    def grant(self) -> tuple[str, str]:
        return self.chance.choice([("g1", "google"), ("g2", "google"), ("g3", "ews"), ("g4", "imap")])

    def send(self) -> None:
        grant, provider = self.grant()
        self.ledger.send(grant, provider=provider, **self.options())

    def modify(self) -> None:
        grant, provider = self.grant()
        objects = self.chance.sample(["m1", "m2", "m3"], self.chance.randint(1, 3))
        self.ledger.queue.modify(grant, objects, starred=True, provider=provider, **self.options())

    def begin(self) -> None:
        self.ledger.absorb()
        with self.ledger.writing() as connection:
            due = self.ledger.due_in(connection)
            chosen = self.chance.sample(due, min(len(due), 1))
            offered = offer_turns(connection, chosen, now=self.ledger.clock())
        if self.chance.random() < 0.8:
            self.open += self.ledger.claim(offered, jobs_each=self.chance.randint(1, 4))

    def end(self) -> None:
        if not self.open:
            return
        claimed = self.open.pop(self.chance.randrange(len(self.open)))
        now = self.ledger.clock()
        outcomes = []
        for job in (job for job in claimed.jobs if job.id in claimed.begun):
            kind = self.chance.random()
            if kind < 0.5:
                outcomes.append(outcome(claimed, job, Event.ACCEPT, sent="yes"))
            elif kind < 0.9:
                retry_at = now + self.chance.randint(0, 120) * SECOND
                outcomes.append(outcome(claimed, job, Event.RETURN, next_at=retry_at, counts=True))
            else:
                outcomes.append(outcome(claimed, job, Event.RETURN, hold=self.a_hold(), begun_at=now))
        ready_at = now + self.chance.choice([0, 0, 20 * SECOND])
        self.ledger.record(*outcomes, ends=[end(claimed, ready_at=ready_at)])

    def a_hold(self) -> Hold:
        until: Micros | None = self.ledger.clock() + self.chance.randint(1, 300) * SECOND
        if self.chance.random() < 0.1:
            return Hold(Scope.GRANT, "grant_expired", "policy", None)
        return Hold(self.chance.choice([Scope.GRANT, Scope.GRANT, Scope.PROVIDER]), "throttled", "policy", until)

    def hold_pair(self) -> None:
        if self.chance.random() < 0.7:
            return
        until = self.ledger.clock() + self.chance.randint(1, 60) * SECOND
        provider = self.chance.choice(["google", "*"])
        with self.ledger.writing() as connection:
            table = schema.pair
            changed = connection.execute(table.update().where(table.c.provider == provider).values(held_until=until))
            if not changed.rowcount and provider == "*":
                connection.execute(insert(table).values(application="default", provider="*", held_until=until))

    def advance(self) -> None:
        self.ledger.clock.advance(self.chance.choice([0.001, 1, 30, 200]))

    def cancel(self) -> None:
        rows = self.ledger.rows(schema.job)
        if rows:
            self.ledger.queue.cancel(str(self.chance.choice(rows).id))


class TestWhy:
    """`why` gives the dispatcher's own answer."""

    @pytest.mark.parametrize(
        "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 12))]
    )
    def test_says_due_if_and_only_if_the_dispatcher_would_serve_the_job_now(self, ledger: Ledger, seed: int) -> None:
        world = World(ledger, seed)
        for _ in range(4):
            for _ in range(15):
                world.step()
            self.agrees(ledger)

    def agrees(self, ledger: Ledger) -> None:
        """Ask about every job, then let the dispatcher serve what it would; and take that back."""
        said = {row.id: ledger.queue.why(str(row.id)) for row in ledger.rows(schema.job)}
        with ledger.engine.connect() as connection:
            offered = offer_turns(connection, ledger.due_in(connection), now=ledger.clock())
            claimed = turns.claim(
                connection,
                [(turn.lane_id, turn.fence) for turn in offered],
                worker=ledger.worker,
                now=ledger.clock(),
                jobs_each=1_000,
            )
            connection.rollback()
        served = {job.id for turn in claimed for job in turn.jobs}
        assert {job_id for job_id, why in said.items() if why.reason == "due"} == served
        for why in said.values():
            # What a time ends has that time ahead of it.
            assert why.until is None or why.until > moment(ledger.clock())

    def test_counts_those_ahead(self, ledger: Ledger) -> None:
        ledger.send(), ledger.send(priority="high")
        job = ledger.send()
        ledger.send(priority="low")
        assert ledger.queue.why(str(job)).ahead == 2

    def test_says_what_the_job_waits_for_from_enqueue_to_its_end(self, ledger: Ledger) -> None:
        job = str(ledger.send())
        seen = [ledger.queue.why(job).reason]
        with ledger.writing() as connection:
            load = workers.Load(capacity=500)
            workers.register(connection, ledger.worker, name="w", pid=1, version="0", load=load, now=START)
        seen.append(ledger.queue.why(job).reason)
        with ledger.writing() as connection:
            workers.lead(connection, ledger.worker, now=START, lease=MINUTE)
        seen.append(ledger.queue.why(job).reason)
        ledger.absorb()
        seen.append(ledger.queue.why(job).reason)
        offered = ledger.offer()
        seen.append(ledger.queue.why(job).reason)
        (claimed,) = ledger.claim(offered)
        seen.append(ledger.queue.why(job).reason)
        ledger.finish(claimed)
        seen.append(ledger.queue.why(job).reason)
        assert seen == ["no_worker", "no_dispatcher", "new", "due", "in_line", "on_the_wire", "sent"]
