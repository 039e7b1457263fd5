"""Races at the end of a turn, on PostgreSQL: whoever commits when, no job is forgotten and nothing is done twice.

A job is forgotten when it waits and its lane does not know: the wake row is gone and the lane wants no turn. The
sweep would find it, minutes later; here nobody sweeps.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.orm import Session

from sendq import State, clock
from sendq.facts.lanes import Lane
from sendq.facts.turns import Claimed, Group, Turn
from sendq.ids import new_id
from sendq.ledger.attempts import Inserted, insert_new_and_lock
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine, writing
from sendq.ledger.dispatching import lanes, record, rescue, turns, workers
from sendq.ledger.dispatching.offers import due_lanes, give_back, offer_turns
from sendq.ledger.dispatching.pairs import read_pairs
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.rules.pace import Pace, written
from sendq.rules.paces import Paces
from sendq.rules.states import Event
from tests.support.ledger import MESSAGE, Ledger, between_statements, empty, end, outcome, until_it_waits
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S
from worker.leading.dispatcher import Dispatcher
from worker.leading.leadership import Leadership

Closing = Callable[[Connection, Ledger, Claimed], None]


def by_its_end(connection: Connection, ledger: Ledger, claimed: Claimed) -> None:
    """The worker records the last outcome and the turn's end."""
    done = outcome(claimed, claimed.jobs[0], Event.ACCEPT, sent="yes")
    record.record(connection, Group([done], ends=[end(claimed)]), now=ledger.clock())


def by_burial(connection: Connection, ledger: Ledger, claimed: Claimed) -> None:
    """Its worker is dead."""
    rescue.bury(connection, ledger.worker, now=ledger.clock())


def by_giving_it_back(connection: Connection, ledger: Ledger, claimed: Claimed) -> None:
    """It was offered, and nobody claimed it."""
    give_back(connection, [(claimed.lane.id, claimed.lane.fence)], now=ledger.clock())


def by_the_sweep(connection: Connection, ledger: Ledger, claimed: Claimed) -> None:
    """Even the net writes lanes."""
    by_its_end(connection, ledger, claimed)
    rescue.sweep(connection, after=UUID(int=0), limit=10, now=ledger.clock())


CLOSINGS = [by_its_end, by_burial, by_giving_it_back, by_the_sweep]


def in_a_turn(ledger: Ledger, closing: Closing) -> Claimed:
    """A lane whose only job is in an open turn."""
    ledger.send()
    ledger.clock.advance(1)
    claimed = ledger.serve()
    if closing is by_giving_it_back:
        ledger.set_lane(turn="offered", turn_worker=None)
        ledger.set_job(claimed.jobs[0].id, state="cancelled")
    return claimed


def absorb(connection: Connection, ledger: Ledger) -> None:
    found = take_wakes(connection, limit=100)
    wake_lanes(connection, found, now=ledger.clock(), paces=Paces())


def is_served(ledger: Ledger, job: UUID) -> bool:
    """Whether the dispatcher and a worker come upon the job by themselves."""
    served = ledger.claim(ledger.offer(), worker=new_id())
    return job in {found.id for claimed in served for found in claimed.jobs}


def wait_until_somebody_waits_for_a_lock(engine: Engine) -> None:
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if connection.execute(asked).scalar_one():
                return
        time.sleep(0.002)
    raise AssertionError("nobody waits for a lock")


@pytest.fixture
def run() -> Iterator[Callable[..., Future[Any]]]:
    """Run something in another thread."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def closes_while_a_job_arrives(ledger: Ledger, closing: Closing, run: Callable[..., Future[Any]]) -> UUID:
    """The narrowest case: the turn's end waits for the lane, and the job is committed and absorbed while it waits.

    What the end reads in the statement that waited is from before that.
    """
    claimed = in_a_turn(ledger, closing)

    def close() -> None:
        with writing(ledger.engine) as connection:
            closing(connection, ledger, claimed)

    with writing(ledger.engine) as dispatcher:
        lanes.lock(dispatcher, [claimed.lane.id])
        closed = run(close)
        wait_until_somebody_waits_for_a_lock(ledger.engine)
        job = ledger.send()
        absorb(dispatcher, ledger)
    closed.result(LIMIT_S)
    return job


class TestAJobCommittedAgainstATurnsEnd:
    @pytest.mark.parametrize("closing", CLOSINGS)
    def test_is_not_forgotten_when_the_end_waited_for_the_lane(
        self, pg_ledger: Ledger, closing: Closing, run: Callable[..., Future[Any]]
    ) -> None:
        assert is_served(pg_ledger, closes_while_a_job_arrives(pg_ledger, closing, run))

    def test_would_be_forgotten_by_one_statement_that_locks_and_scans(
        self, pg_ledger: Ledger, run: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So the test above can fail: this is the statement that must never be written."""
        scanned: dict[UUID, tuple[None, Any, None]] = {}

        def lock_and_scan(
            connection: Connection, ids: Any, attempts: Any, jobs: Any
        ) -> tuple[dict[UUID, Lane], Inserted]:
            first = "(SELECT min(next_at) FROM sendq_job WHERE lane_id = sendq_lane.id AND state = 'queued')"
            statement = select(schema.lane, text(f"{first} AS first")).where(schema.lane.c.id.in_(ids))
            rows = connection.execute(statement.with_for_update(of=schema.lane)).all()
            scanned.update({row.id: (None, row.first, None) for row in rows})
            return {row.id: Lane._make(row[:-1]) for row in rows}, insert_new_and_lock(connection, attempts, jobs)

        def write_as_scanned(connection: Connection, changes: Iterable[Any], *, now: int) -> int:
            return lanes.write_found(connection, list(changes), scanned, now=now)

        def close(connection: Connection, ledger: Ledger, claimed: Claimed) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(record, "lock_lanes_and_insert_new", lock_and_scan)
                patch.setattr(record, "then_write_changes", lambda changes, *, now: None)
                patch.setattr(record, "write_changes", write_as_scanned)
                by_its_end(connection, ledger, claimed)

        assert not is_served(pg_ledger, closes_while_a_job_arrives(pg_ledger, close, run))

    @pytest.mark.parametrize("absorbed", ["at once", "later"])
    @pytest.mark.parametrize("closing", CLOSINGS)
    def test_is_not_forgotten_whichever_statements_of_the_end_it_comes_between(
        self, pg_ledger: Ledger, closing: Closing, absorbed: str, run: Callable[..., Future[Any]]
    ) -> None:
        at, statements = 0, 1
        while at <= statements:  # the last one is the commit, which is no statement of a cursor
            claimed = in_a_turn(pg_ledger, closing)
            dispatched: list[Future[Any]] = []
            with Session(pg_ledger.engine) as session, writing(pg_ledger.engine) as connection:
                job = UUID(pg_ledger.queue.send("g1", MESSAGE, session=session).id)

                def arrives(session: Session = session, dispatched: list[Future[Any]] = dispatched) -> None:
                    session.commit()
                    if absorbed == "at once":
                        dispatched.append(run(pg_ledger.absorb))
                        # It has done what it can do before the lane is free, or waits for that.
                        until_it_waits(pg_ledger, dispatched[-1])

                with between_statements(connection, at, arrives) as seen:
                    closing(connection, pg_ledger, claimed)
                if at >= len(seen):
                    arrives()
            for future in dispatched:
                future.result(LIMIT_S)
            assert is_served(pg_ledger, job), f"forgotten when committed before statement {at}"
            statements = len(seen)
            at += 1
            empty(pg_ledger)
        assert at > 2  # before, between and after two statements at least


class TestEverythingAtOnce:
    def test_brings_every_job_to_its_end_once(self, pg_ledger_url: str) -> None:
        """Some seconds of callers, dispatchers and workers, all of them real, on a few lanes."""
        engine = open_engine(pg_ledger_url, pool_size=12)
        ledger = Ledger(engine)
        ledger.queue = type(ledger.queue)(engine)  # with the real clock
        stress = Stress(ledger, seconds=2.5)
        stress.run()
        states = {job.id: State(job.state) for job in ledger.rows(schema.job)}
        assert len(stress.enqueued) > 50
        assert states == dict.fromkeys(stress.enqueued, State.SENT)
        assert stress.sent_twice == 0
        # Each job was accepted in one turn, and each turn had one worker.
        accepted = [row.job_id for row in ledger.rows(schema.attempt) if row.sent == "yes"]
        assert len(accepted) == len(set(accepted)) == len(states)
        assert len(stress.claimed) == len(set(stress.claimed))
        for lane in ledger.rows(schema.lane):
            assert (lane.turn, lane.next_at) == (None, None)
        engine.dispose()


class Stress:
    """Callers until the time is over; dispatchers and workers until nothing waits any more."""

    def __init__(self, ledger: Ledger, *, seconds: float) -> None:
        self.ledger, self.stop_at = ledger, time.monotonic() + seconds
        self.give_up_at = self.stop_at + LIMIT_S
        self.callers_done = threading.Event()
        self.quiet = threading.Event()
        self.offered: list[Turn] = []
        self.lock = threading.Lock()
        self.enqueued: list[UUID] = []
        self.claimed: list[tuple[UUID, int]] = []
        self.sent_twice = 0

    def run(self) -> None:
        with ThreadPoolExecutor(7) as pool:
            callers = [pool.submit(self.call, seed) for seed in range(3)]
            others = [pool.submit(self.dispatch, seed) for seed in range(2)]
            others += [pool.submit(self.work, seed) for seed in range(2)]
            try:
                self.join(callers)
                self.callers_done.set()
                self.join(others)
            finally:  # or the other threads would go on, and the pool wait for them
                self.stop_at = 0
                self.quiet.set()

    def join(self, futures: list[Future[None]]) -> None:
        """Wait for all of these threads, or for the first that fails."""
        for future in as_completed(futures, LIMIT_S + 10):
            future.result()

    def call(self, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < self.stop_at:
            grants = chance.sample(["g1", "g2", "g3"], 2)
            with Session(self.ledger.engine) as session:
                jobs = [UUID(self.ledger.queue.send(grant, MESSAGE, session=session).id) for grant in grants]
                time.sleep(chance.random() * 0.01)  # the application's own work in the same transaction
                if chance.random() < 0.2:
                    session.rollback()
                    continue
                session.commit()
            with self.lock:
                self.enqueued += jobs

    def dispatch(self, seed: int) -> None:
        """Two of them, as when a lease changes hands: compare and set keeps them apart."""
        while not self.quiet.is_set():
            assert time.monotonic() < self.give_up_at, "jobs wait, and their lanes do not know"
            finished = self.callers_done.is_set()
            with writing(self.ledger.engine) as connection:
                woken = take_wakes(connection, limit=20)
                now = clock.now()
                wake_lanes(connection, woken, now=now, paces=Paces())
                due = [
                    lane
                    for pair in read_pairs(connection)
                    if pair.wants_at <= now
                    for lane in due_lanes(connection, pair, now=now, limit=10)
                ]
                offered = offer_turns(connection, due, now=now)
            with self.lock:
                self.offered += offered
            if finished and not woken and not offered and self.nothing_waits():
                self.quiet.set()
            time.sleep(0.001)

    def nothing_waits(self) -> bool:
        with self.ledger.engine.connect() as connection:
            return not connection.execute(select(schema.job.c.id).where(schema.job.c.state != "sent").limit(1)).all()

    def work(self, seed: int) -> None:
        chance = random.Random(100 + seed)
        worker = new_id()
        while not self.quiet.is_set():
            with self.lock:
                taken = [
                    self.offered.pop(chance.randrange(len(self.offered))) for _ in range(min(2, len(self.offered)))
                ]
            with writing(self.ledger.engine) as connection:
                wanted = [(turn.lane_id, turn.fence) for turn in taken] * 2  # the broker may deliver twice
                claimed = turns.claim(connection, wanted, worker=worker, now=clock.now(), jobs_each=4)
            with self.lock:
                self.claimed += [(one.lane.id, one.lane.fence) for one in claimed]
            groups = [self.group_of(one, chance) for one in claimed]
            if groups and chance.random() < 0.5:  # several turns in one commit
                groups = [
                    Group([o for group in groups for o in group.outcomes], ends=[e for g in groups for e in g.ends])
                ]
            for group in groups:
                with writing(self.ledger.engine) as connection:
                    self.sent_twice += len(record.record(connection, group, now=clock.now()).sent_twice)
            time.sleep(0.001)

    def group_of(self, claimed: Claimed, chance: random.Random) -> Group:
        outcomes = []
        for job in claimed.jobs:
            if job.id not in claimed.begun:
                continue
            if chance.random() < 0.2:
                retry_at = clock.now() + chance.randrange(20_000)
                outcomes.append(outcome(claimed, job, Event.RETURN, next_at=retry_at, begun_at=clock.now()))
            else:
                outcomes.append(outcome(claimed, job, Event.ACCEPT, sent="yes", begun_at=clock.now()))
        return Group(outcomes, ends=[end(claimed)])


class Cost(NamedTuple):
    """Pages touched in all tables, and entries passed over in the index of waiting jobs."""

    pages: int
    entries: int


class NoWakeup:
    """For rounds that a test calls itself."""

    can_notify = False
    poll_every = 0

    def wait_for(self, limit_s: float) -> bool:
        return True

    def catch_up(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


@pytest.mark.long
class TestAnOldSnapshotOfAnotherConnection:
    """A dump, or a forgotten transaction: what was deleted or changed since cannot be cleaned away."""

    JOBS = 3_000
    JOBS_EACH = 50
    TABLES = ("job", "payload", "lane", "pair", "wake", "attempt", "batch", "batch_change")

    def test_makes_claims_and_settling_no_more_than_half_as_dear_again(self, pg_server: PgServer) -> None:
        with pg_server.database() as name:
            url = pg_server.url(name)
            migrate.run(url)
            engine, other = open_engine(url), open_engine(url)
            with engine.begin() as connection:  # nobody cleans up in the middle of the measurement
                for table in self.TABLES:
                    connection.execute(text(f"ALTER TABLE sendq_{table} SET (autovacuum_enabled = false)"))
            ledger = Ledger(engine)
            without = self.cost(ledger, "g1")
            with other.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
                # From the same start: the rows of the first lane are gone.
                self.enqueue(ledger, "g2")
                connection.execute(text("SELECT count(*) FROM sendq_job")).scalar()
                with_it = self.cost(ledger, "g2", enqueued=True)
            engine.dispose()
            other.dispose()
        assert with_it.pages < 1.5 * without.pages
        # Dead entries of an index lie close together, so passing over thousands of them hardly shows in pages.
        assert with_it.entries < 1.5 * without.entries

    def test_makes_a_round_of_the_dispatcher_no_more_than_half_as_dear_again(self, pg_server: PgServer) -> None:
        """Hundreds of turns later: whatever they left behind in the indexes is passed over."""
        with pg_server.database() as name:
            url = pg_server.url(name)
            migrate.run(url)
            engine, other = open_engine(url), open_engine(url)
            with engine.begin() as connection:
                for table in self.TABLES:
                    connection.execute(text(f"ALTER TABLE sendq_{table} SET (autovacuum_enabled = false)"))
            ledger = Ledger(engine)
            dispatcher = self.dispatcher(ledger)
            with other.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
                connection.execute(text("SELECT count(*) FROM sendq_job")).scalar()
                pages = [self.cost_of_a_round(ledger, dispatcher, number) for number in range(200)]
            engine.dispose()
            other.dispose()
        # The first rounds know no floor yet: compared are rounds in the middle with the last.
        early, late = sorted(pages[31:60])[15], sorted(pages[-29:])[15]
        assert late < 1.5 * early, (early, late)

    def dispatcher(self, ledger: Ledger) -> Dispatcher:
        with ledger.writing() as connection:
            load = workers.Load(capacity=100)
            workers.register(connection, ledger.worker, name="w", pid=1, version="0", load=load, now=ledger.clock())
            known = {"application": "default", "provider": "unknown", "ramp": None, "proven_at": 2**62}
            connection.execute(schema.pair.insert().values(known))
        self.published: list[Turn] = []
        return Dispatcher(
            ledger.engine,
            lambda bundles: self.published.extend(turn for bundle in bundles for turn in bundle),
            NoWakeup(),
            leadership=Leadership(
                ledger.engine, holder=lambda: ledger.worker, now=ledger.clock, lease_s=4.5, poll_s=0.2
            ),
            holder=lambda: ledger.worker,
            now=ledger.clock,
            poll_s=0.2,
            bundle_turns=50,
            paces=Paces(),
            bundle_slots=100,
        )

    def cost_of_a_round(self, ledger: Ledger, dispatcher: Dispatcher, number: int) -> int:
        """Pages that a round touches which gives five lanes a turn; carried out and ended, a second passes."""
        for lane in range(5):
            ledger.send(f"g{number}-{lane}")
        before = self.so_far(ledger).pages
        dispatcher.run_once()
        dispatcher.close()  # or its session would keep its counts for a while
        cost = self.so_far(ledger).pages - before
        turns, self.published = self.published, []
        for claimed in ledger.claim(turns):
            ledger.finish(claimed)
        ledger.clock.advance(1)
        return cost

    def enqueue(self, ledger: Ledger, grant: str) -> None:
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in self.TABLES:
                connection.execute(text(f"TRUNCATE sendq_{table}"))
        ledger.queue.modify(grant, [f"m{n}" for n in range(self.JOBS)], starred=True)
        ledger.clock.advance(60)
        ledger.absorb()
        ledger.set_lane(grant, ramp=10, width=10, pace=written(Pace(width=10)))  # no limit: its clock stands still

    def cost(self, ledger: Ledger, grant: str, *, enqueued: bool = False) -> Cost:
        """What all turns cost, each from its claim to its end; counted, not timed: the machine may be busy."""
        if not enqueued:
            self.enqueue(ledger, grant)
        total, rounds = Cost(0, 0), 0
        while offered := ledger.offer():
            before = self.so_far(ledger)
            for claimed in ledger.claim(offered, jobs_each=self.JOBS_EACH):
                ledger.finish(claimed)
            after = self.so_far(ledger)
            total = Cost(total.pages + after.pages - before.pages, total.entries + after.entries - before.entries)
            rounds += 1
        assert rounds == self.JOBS // self.JOBS_EACH
        return total

    def so_far(self, ledger: Ledger) -> Cost:
        with ledger.engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.commit()
            touched = "heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)"
            pages = text(f"SELECT sum({touched}) FROM pg_statio_user_tables")
            entries = text("SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'sendq_job_waiting_idx'")
            return Cost(int(connection.execute(pages).scalar_one()), int(connection.execute(entries).scalar_one()))


class TestAPlannerThatBelievesNothingWaits:
    """Statistics are from a quiet night, and 3,000 jobs came in just now."""

    def test_does_not_look_for_some_jobs_among_all_that_wait(self, pg_ledger: Ledger) -> None:
        with pg_ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE sendq_job"))
        pg_ledger.queue.modify("g1", [f"m{n}" for n in range(3_000)], starred=True)
        pg_ledger.clock.advance(1)
        jobs = [row.id for row in pg_ledger.rows(schema.job)[:10]]
        seen: list[tuple[str, Any]] = []

        def before(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            seen.append((statement, parameters))

        with pg_ledger.writing() as connection:
            event.listen(connection, "before_cursor_execute", before)
            assert turns.begin(connection, [(job, 1, 0, 0) for job in jobs], now=pg_ledger.clock()) == set(jobs)
            statement, parameters = seen[0]
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
        assert "sendq_job_waiting_idx" not in plan
        assert "Update on sendq_job" in plan
