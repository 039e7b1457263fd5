"""How far one ledger goes: what a turn costs the one dispatcher that it has, and when that is too much.

    ./dev bench leader [--lanes 1000,10000,100000] [--seconds 20] [--at DIRECTORY]

A real dispatcher on real PostgreSQL (with fsync), with nothing else in its process; workers are simulated by closing
their turns in the ledger, so that they need hardly any CPU and the dispatcher is never without a free slot.

    backlog   every lane has jobs waiting, and is due again at the end of each turn: the dispatcher does nothing but
              deal out turns
    lone jobs every turn comes from a commit that wakes an idle lane, as with one mail now and one then

CPU is that of the dispatcher's thread, and of its session of PostgreSQL. Each round of it is one transaction, which
waits for the other, so their sum bounds the number of turns per second.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import structlog
from sqlalchemy import Connection, Engine, text

from benchmarks import reporting
from benchmarks.filling import APPLICATION, PROVIDER
from benchmarks.peers import at_least_one
from benchmarks.scale import prove
from benchmarks.stage import cpu
from sendq import clock
from sendq.facts.turns import Turn
from sendq.ids import new_id
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.ledger.dispatching import workers
from sendq.rules.paces import Paces
from tests.support.servers import PgServer, running_postgres
from worker.leading.dispatcher import BUSY_PAUSE, Dispatcher
from worker.leading.leadership import Leadership

# As `benchmarks.scale`.
SERVER = {"fsync": "on", "shared_buffers": "1GB", "max_wal_size": "4GB"}

# The slots of all simulated workers, and how long a turn keeps one: together, more turns than a dispatcher can offer.
SLOTS, TURN_S = 4_000, 0.25

# New jobs between two rounds: those of 5 ms at 2,000 and 20,000 a second. A busy dispatcher finds more in each round.
FEW, MANY = 10, 100

WARM_ROUNDS = 20


def main(arguments: list[str]) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(prog="./dev bench leader", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", default="1000,10000,100000", help="numbers of lanes, separated by commas")
    parser.add_argument("--seconds", type=at_least_one, default=20, help="of each measurement")
    parser.add_argument("--at", type=Path, metavar="DIRECTORY", help="below which the data lie")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    given = parser.parse_args(arguments)
    rows = []
    with logging_as_a_worker(), running_postgres(given.at, **SERVER) as pg:
        for lanes in map(int, given.lanes.split(",")):
            rows += measure(pg, lanes, seconds=given.seconds)
    lines = markdown(rows)
    (given.report / "leader.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


@contextmanager
def logging_as_a_worker() -> Iterator[None]:
    """Without debug messages."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        yield
    finally:
        structlog.configure(**before)


class Asleep:
    """A wakeup that never waits: the measurement runs one round after the other."""

    can_notify = False
    poll_every = clock.SECOND

    def wait_for(self, limit_s: float) -> bool:
        return True

    def catch_up(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


@dataclass
class Workers:
    """Simulated workers: each turn lasts `TURN_S`."""

    ledger: Engine
    due_again: bool
    open: deque[tuple[float, UUID]] = field(default_factory=deque)
    closed: int = 0

    def take(self, turns: Sequence[Turn]) -> None:
        until = time.monotonic() + TURN_S
        self.open.extend((until, turn.lane_id) for turn in turns)

    def close(self) -> None:
        """End the turns whose time is over; lanes go to the back, or wait for a new job."""
        now, ended = time.monotonic(), []
        while self.open and self.open[0][0] <= now:
            ended.append(self.open.popleft()[1])
        if ended:
            values = {"lanes": ended, "next_at": clock.now() if self.due_again else None}
            with writing(self.ledger) as connection:
                connection.execute(_END, values)
            self.closed += len(ended)


_END = text(
    "UPDATE sendq_lane SET turn = NULL, turn_at = NULL, turn_worker = NULL, turn_slots = 0, next_at = :next_at"
    " WHERE id = ANY(:lanes)"
)
_LANES = text(
    "INSERT INTO sendq_lane (id, application, grant_id, provider, created_at, next_at, width, ramp)"
    " SELECT gen_random_uuid(), :application, 'grant-' || place, :provider, :now, :next_at, 1, 1"
    " FROM generate_series(1, :lanes) AS place"
)
_WAKES = text(
    "INSERT INTO sendq_wake (lane_id, application, grant_id, provider, normal_at)"
    " SELECT id, application, grant_id, provider, :now FROM sendq_lane WHERE id = ANY(:lanes)"
)


def measure(pg: PgServer, lanes: int, *, seconds: int) -> list[dict[str, Any]]:
    """All loads on this number of lanes."""
    return [
        run(pg, "backlog", lanes, seconds=seconds),
        run(pg, "lone jobs", lanes, seconds=seconds, jobs=FEW),
        run(pg, "lone jobs", lanes, seconds=seconds, jobs=MANY),
    ]


def run(pg: PgServer, load: str, lanes: int, *, seconds: int, jobs: int | None = None) -> dict[str, Any]:
    """One load on a new ledger. ``jobs``: how many lone jobs come between two rounds; None: all lanes are due."""
    due = jobs is None
    with pg.database() as name:
        ledger, others = open_engine(pg.url(name), pool_size=1), open_engine(pg.url(name), pool_size=1)
        try:
            migrate.upgrade(others)
            fill(others, lanes, due=due)
            around = Workers(others, due_again=due)
            dispatcher, session = dispatcher_of(ledger, around.take)
            commit = (lambda: None) if jobs is None else lone_jobs(others, jobs)
            with closing(dispatcher):
                cost = rounds(dispatcher, session, around, commit, seconds=seconds)
            return {"load": load, "lanes": f"{lanes:,}"} | cost
        finally:
            ledger.dispose()
            others.dispose()


def fill(ledger: Engine, lanes: int, *, due: bool) -> None:
    """Lanes that are all due, or all idle; a worker with many slots; a provider that is known to work."""
    now = clock.now()
    with writing(ledger) as connection:
        values = {"application": APPLICATION, "provider": PROVIDER, "now": now, "next_at": now if due else None}
        connection.execute(_LANES, values | {"lanes": lanes})
        connection.execute(
            text("INSERT INTO sendq_pair (application, provider) VALUES (:application, :provider)"),
            {"application": APPLICATION, "provider": PROVIDER},
        )
        workers.register(
            connection, new_id(), name="simulated", pid=1, version="0", load=workers.Load(capacity=SLOTS), now=now
        )
    prove(ledger)
    with ledger.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))


def dispatcher_of(ledger: Engine, take: Callable[[Sequence[Turn]], None]) -> tuple[Dispatcher, psutil.Process]:
    """A dispatcher that leads, and its session of PostgreSQL."""
    worker = new_id()

    def publish(bundles: Sequence[Sequence[Turn]]) -> None:
        take(list(itertools.chain.from_iterable(bundles)))

    with reading(ledger) as connection:
        session = psutil.Process(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    leadership = Leadership(ledger, holder=lambda: worker, now=clock.now, lease_s=30.0, poll_s=1.0)
    dispatcher = Dispatcher(
        ledger, publish, Asleep(), leadership=leadership, holder=lambda: worker, now=clock.now, poll_s=1.0,
        bundle_turns=50, bundle_slots=100, paces=Paces(),
    )  # fmt: skip
    return dispatcher, session


def lone_jobs(ledger: Engine, jobs: int) -> Callable[[], None]:
    """Wakes ``jobs`` lanes as the commits of one job for each would, one lane after the other."""
    with reading(ledger) as connection:
        lanes = list(connection.execute(text("SELECT id FROM sendq_lane ORDER BY id")).scalars())
    following = itertools.cycle(lanes)

    def commit() -> None:
        with writing(ledger) as connection:
            _wake(connection, list(itertools.islice(following, jobs)))

    return commit


def _wake(connection: Connection, lanes: list[UUID]) -> None:
    connection.execute(_WAKES, {"lanes": lanes, "now": clock.now()})


def rounds(
    dispatcher: Dispatcher, session: psutil.Process, around: Workers, commit: Callable[[], None], *, seconds: int
) -> dict[str, Any]:
    """One round after the other; only the dispatcher's own part of each is measured."""
    for _ in range(WARM_ROUNDS):
        commit()
        dispatcher.run_once()
        around.close()
    closed, number, thread_s, wall_s, session_s = around.closed + len(around.open), 0, 0.0, 0.0, cpu(session)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        commit()
        thread, wall = time.thread_time(), time.perf_counter()
        dispatcher.run_once()
        thread_s, wall_s = thread_s + time.thread_time() - thread, wall_s + time.perf_counter() - wall
        number += 1
        around.close()
    turns = around.closed + len(around.open) - closed
    session_s = cpu(session) - session_s
    return {
        "turns": f"{turns:,}",
        "turns a round": round(turns / number, 1),
        "dispatcher, ms CPU a turn": round(thread_s / turns * 1000, 3),
        "its session, ms CPU a turn": round(session_s / turns * 1000, 3),
        "ms a round": round(wall_s / number * 1000, 1),
        "turns/s, by CPU": round(turns / (thread_s + session_s)),
        "turns/s, as measured": round(turns / (wall_s + number * BUSY_PAUSE / clock.SECOND)),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The report's lines."""
    words = (
        "*By CPU*: the dispatcher's thread and its session work in turn, so that they have one core together. "
        "*As measured*: with the waits for commits and for other work on this machine, and the pause of "
        f"{BUSY_PAUSE / 1000:g} ms between two rounds. A turn carries up to `SENDQ_TURN_JOBS` jobs: with a backlog, "
        "what a lane can send in two seconds; with lone jobs, one."
    )
    lines = reporting.head("How far one dispatcher goes", "./dev bench leader")
    return [*lines, *reporting.section("Turns", words, reporting.table(rows))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
