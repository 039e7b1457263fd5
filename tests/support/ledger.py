"""A migrated ledger for each test, on SQLite and on PostgreSQL, with short methods for what happens in it.

The schema is created once per session; each test gets it empty. Time does not pass unless a test advances it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection, Engine, QueuePool, Row, event, select, text

from sendq import Message, SendQueue, State
from sendq.clock import SECOND, Micros
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Attempt, Outcome
from sendq.facts.turns import Begin, Claimed, End, Group, Recorded, Turn
from sendq.ids import lane_id, new_id
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_busy_engine, writing
from sendq.ledger.dispatching import turns
from sendq.ledger.dispatching.budgets import NO_BUDGETS
from sendq.ledger.dispatching.offers import due_lanes, due_whole_lanes, offer_turns, opened
from sendq.ledger.dispatching.pairs import read_pairs
from sendq.ledger.dispatching.record import record as record_in
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.rules.budgets import Budgets
from sendq.rules.paces import Paces
from sendq.rules.states import Event
from tests.support.servers import PgServer
from tests.support.waiting import LIMIT_S

START: Micros = 1_780_000_000 * SECOND  # June 2026; any time would do
MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>42</p>")


class Clock:
    """A clock that only the test advances."""

    def __init__(self, at: Micros = START) -> None:
        self.at = at

    def __call__(self) -> Micros:
        return self.at

    def advance(self, seconds: float) -> Micros:
        """Advance the clock; returns the new time."""
        self.at += round(seconds * SECOND)
        return self.at


@dataclass
class Ledger:
    """A ledger with a queue in front of it, a clock, and one worker."""

    engine: Engine
    clock: Clock = field(default_factory=Clock)
    worker: UUID = field(default_factory=new_id)
    budgets: Budgets = NO_BUDGETS

    def __post_init__(self) -> None:
        self.queue = SendQueue(self.engine, now=self.clock)

    def writing(self) -> AbstractContextManager[Connection]:
        """One transaction."""
        return writing(self.engine)

    # --- enqueue ------------------------------------------------------------------------------------------------------

    def send(self, grant: str = "g1", **options: Any) -> UUID:
        """Enqueue one message; returns the id of its job."""
        return UUID(self.queue.send(grant, MESSAGE, **options).id)

    def modify(self, grant: str, objects: Sequence[str], **options: Any) -> list[UUID]:
        """Enqueue a batch; returns the ids of its jobs in the order of ``objects``."""
        batch = self.queue.modify(grant, objects, **({"unread": False} | options))
        found = {job.object_id: job.id for job in self.rows(schema.job) if job.batch_id == UUID(batch.id)}
        return [found[name] for name in objects]

    # --- dispatch and work --------------------------------------------------------------------------------------------

    def absorb(self) -> int:
        """Take in all wake rows, as the dispatcher does; returns how many."""
        with self.writing() as connection:
            found = take_wakes(connection, limit=10_000)
            wake_lanes(connection, found, now=self.clock(), paces=Paces())
        return len(found)

    def due(self) -> list[UUID]:
        """The lanes that the dispatcher would serve now."""
        with self.writing() as connection:
            return [lane for lane, _ in self.due_in(connection)]

    def due_in(self, connection: Connection) -> list[tuple[UUID, int]]:
        """Like `due`, in an open transaction, with the number of simultaneous calls of each lane."""
        now = self.clock()
        open_pairs = [pair for pair in read_pairs(connection) if pair.wants_at <= now]
        return [served for pair in open_pairs for served in due_lanes(connection, pair, now=now, limit=1_000)]

    def opened_in(self, connection: Connection) -> list[Lane]:
        """The due lanes with the turns that the dispatcher would claim for its own process."""
        now = self.clock()
        open_pairs = [pair for pair in read_pairs(connection) if pair.wants_at <= now]
        found = [lane for pair in open_pairs for lane in due_whole_lanes(connection, pair, now=now, limit=1_000)]
        return [opened(lane, lane.ramp, now=now) for lane in found]

    def offer(self) -> list[Turn]:
        """One round of the dispatcher: take in new jobs, choose all due lanes, offer their turns."""
        self.absorb()
        with self.writing() as connection:
            return offer_turns(connection, self.due_in(connection), now=self.clock())

    def claim(self, offered: Iterable[Turn], *, worker: UUID | None = None, jobs_each: int = 50) -> list[Claimed]:
        """Claim turns as a worker."""
        with self.writing() as connection:
            return turns.claim(
                connection,
                [(turn.lane_id, turn.fence) for turn in offered],
                worker=worker or self.worker,
                now=self.clock(),
                jobs_each=jobs_each,
                budgets=self.budgets,
            )

    def serve(self, *, worker: UUID | None = None, jobs_each: int = 50) -> Claimed:
        """Offer and claim a turn of the only due lane."""
        (claimed,) = self.claim(self.offer(), worker=worker, jobs_each=jobs_each)
        return claimed

    def record(
        self,
        *outcomes: Outcome,
        begins: Iterable[tuple[Claimed, UUID]] = (),
        ends: Iterable[End] = (),
    ) -> Recorded:
        """Commit one group."""
        return self.record_group(
            Group(
                outcomes,
                [begin_of(claimed, job) for claimed, job in begins],
                list(ends),
            )
        )

    def record_group(self, group: Group) -> Recorded:
        """Commit this group."""
        with self.writing() as connection:
            return record_in(connection, group, now=self.clock())

    def finish(self, claimed: Claimed) -> None:
        """End a turn with all its jobs accepted, begun a few at a time as a worker would."""
        waiting = [job for job in claimed.jobs if job.id not in claimed.begun]
        begun = [job for job in claimed.jobs if job.id in claimed.begun]
        while begun:
            following = waiting[: claimed.lane.ramp]
            waiting = waiting[claimed.lane.ramp :]
            self.record(
                *(outcome(claimed, job, Event.ACCEPT, sent="yes") for job in begun),
                begins=[(claimed, job.id) for job in following],
            )
            begun = following
        self.record(ends=[end(claimed)])

    # --- look ---------------------------------------------------------------------------------------------------------

    def rows(self, table: Any) -> Sequence[Row[Any]]:
        """All rows of a table."""
        with self.engine.connect() as connection:
            return connection.execute(select(table)).all()

    def job(self, job_id: UUID) -> Row[Any]:
        """A job's row."""
        with self.engine.connect() as connection:
            return connection.execute(select(schema.job).where(schema.job.c.id == job_id)).one()

    def state(self, job_id: UUID) -> State:
        """A job's state."""
        return State(self.job(job_id).state)

    def lane(self, grant: str = "g1", application: str = "default") -> Row[Any]:
        """A lane's row."""
        wanted = lane_id(application, grant)
        with self.engine.connect() as connection:
            return connection.execute(select(schema.lane).where(schema.lane.c.id == wanted)).one()

    def set_lane(self, grant: str = "g1", **values: Any) -> None:
        """Write a lane's columns directly."""
        with self.writing() as connection:
            table = schema.lane
            connection.execute(table.update().where(table.c.id == lane_id("default", grant)).values(**values))

    def widen(self, grant: str = "g1") -> None:
        """Set a lane's ramp to its width, as after successful calls."""
        self.absorb()
        self.set_lane(grant, ramp=self.lane(grant).width)

    def set_job(self, job_id: UUID, **values: Any) -> None:
        """Write a job's columns directly."""
        with self.writing() as connection:
            connection.execute(schema.job.update().where(schema.job.c.id == job_id).values(**values))


def begin_of(claimed: Claimed, job_id: UUID) -> Begin:
    """What the worker of a turn asks for, to make the call for this job next."""
    loaded = next(((job.generation, job.content_version) for job in claimed.jobs if job.id == job_id), (0, 0))
    return Begin(claimed.lane.id, claimed.lane.fence, claimed.worker, job_id, *loaded, claimed.budgets.get(job_id, ()))


def outcome(claimed: Claimed, job: Any, event: Event, *, called: bool = True, **given: Any) -> Outcome:
    """The outcome of a begun job of a turn; with an attempt unless no call was made."""
    begun_at = given.pop("begun_at", claimed.lane.turn_at or START)
    generation = given.pop("generation", job.generation)
    outcome_id = given.pop("id", None) or new_id()
    values: dict[str, Any] = {"rule": "test", "next_at": job.next_at, "sent": "no"} | given
    attempt = Attempt(
        outcome_id,
        job.id,
        generation,
        None,
        begun_at,
        begun_at + 1,
        status=200 if event is Event.ACCEPT else 503,
        rule=values["rule"],
        route=None if event is Event.ACCEPT else "retry",
        sent=values["sent"],
    )
    return Outcome(
        id=outcome_id,
        lane_id=claimed.lane.id,
        fence=claimed.lane.fence,
        job_id=job.id,
        operation=job.operation,
        batch_id=job.batch_id,
        event=event,
        begun_at=begun_at,
        attempt=attempt if called else None,
        **values,
    )


def end(claimed: Claimed, *, ready_at: Micros = 0, ramp: int | None = None) -> End:
    """The end of a turn."""
    return End(claimed.lane.id, claimed.lane.fence, claimed.worker, ready_at, ramp or claimed.lane.ramp)


@contextmanager
def between_statements(connection: Connection, at: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Do something before the statement number ``at`` of a connection; gives the statements as they go."""
    seen: list[str] = []

    def before(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if len(seen) == at:
            act()
        seen.append(statement)

    event.listen(connection, "before_cursor_execute", before)
    try:
        yield seen
    finally:
        event.remove(connection, "before_cursor_execute", before)


def until_it_waits(ledger: Ledger, future: Future[Any]) -> None:
    """Wait until a transaction in another thread has ended, or a transaction of this ledger waits for a lock."""
    asked = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + LIMIT_S
    with ledger.engine.connect() as connection:
        while not future.done() and not connection.execute(asked).scalar_one():
            assert time.monotonic() < deadline
            connection.rollback()
            time.sleep(0.001)


def empty(ledger: Ledger) -> None:
    """Delete everything but the leader's row."""
    with ledger.writing() as connection:
        for table in schema.metadata.sorted_tables:
            if table is not schema.leader:
                connection.execute(table.delete())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, from which tests copy."""
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    migrate.run(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_ledger_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The address of a migrated, empty SQLite ledger."""
    path = tmp_path / "ledger.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def pg_migrated(pg_server: PgServer) -> PgServer:
    """A PostgreSQL whose database ``ledger`` is migrated."""
    pg_server.execute("CREATE DATABASE ledger")
    migrate.run(pg_server.url("ledger"))
    return pg_server


@pytest.fixture
def pg_ledger_url(pg_migrated: PgServer) -> Iterator[str]:
    """The address of a migrated, empty PostgreSQL ledger.

    One database for all tests, emptied after each: copying one takes half a second, deleting a few rows almost nothing.
    """
    yield pg_migrated.url("ledger")
    tables = [table.name for table in schema.metadata.sorted_tables if table is not schema.leader]
    statements = [
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger' AND pid <> pg_backend_pid()",
        *(f"DELETE FROM {table}" for table in tables),
        "UPDATE sendq_leader SET holder = NULL, fence = 0, expires_at = 0, sleeps_until = 0, line = NULL,"
        " renewals = 0, renewed_at = 0, complete_at = 0, proven_on = NULL,"
        " shut_at = NULL, shut_because = NULL, lost_since = NULL, known_until = NULL, highest_at = 0",
        f"UPDATE {schema.VERSION_TABLE} SET version_num = '{migrate.wanted()}'",
    ]
    with psycopg.connect(  # not one for all tests: a test that forks would close it
        host=pg_migrated.host, port=pg_migrated.port, user="postgres", dbname="ledger", autocommit=True
    ) as db:
        db.execute("; ".join(statements).encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """The address of a migrated, empty ledger, on either database."""
    name = "sqlite_ledger_url" if request.param == "sqlite" else "pg_ledger_url"
    return str(request.getfixturevalue(name))


class Engines:
    """Engines that tests take turns with: compiling every statement anew takes a third of such a test's time."""

    def __init__(self, directory: Path) -> None:
        self._engines: dict[str, Engine] = {}
        self._file = directory / "ledger.db"  # a link to the file of the current test

    @contextmanager
    def of(self, url: str) -> Iterator[Engine]:
        """An engine without connections and, but for those of its pool, without listeners of other tests."""
        if url.startswith("sqlite"):
            self._file.unlink(missing_ok=True)
            self._file.symlink_to(url.removeprefix("sqlite:///"))
            url = f"sqlite:///{self._file}"
        if url not in self._engines:
            self._engines[url] = open_busy_engine(url, keeps_plans=True, pool_size=20)
        engine = self._engines[url]
        yield engine.execution_options()
        # A thread that still has one would give it to a pool that is gone, and the leak be the fault of a later test.
        assert isinstance(engine.pool, QueuePool)
        taken = engine.pool.checkedout()
        engine.dispose()
        assert taken == 0, f"{taken} connections are still in use: a thread goes on after its test"


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """One engine for each database."""
    return Engines(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def ledger(ledger_url: str, engines: Engines) -> Iterator[Ledger]:
    """A ledger on either database."""
    with engines.of(ledger_url) as engine:
        yield Ledger(engine)


@pytest.fixture
def pg_ledger(pg_ledger_url: str, engines: Engines) -> Iterator[Ledger]:
    """A ledger on PostgreSQL, with enough connections for a test's threads."""
    with engines.of(pg_ledger_url) as engine:
        yield Ledger(engine)
