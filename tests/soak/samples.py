"""What must not grow: memory of the workers, connections, sizes of tables and of Redis; measured every few seconds."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import psutil
from sqlalchemy import exc, text

from sendq.errors import SendqError
from sendq.ledger.db.engine import reading
from tests.chaos.crew import Crew
from tests.support.system import System
from worker.redis.embedded import redis_client

EVERY_S = 10.0
WARM_S = 600.0  # from this time on nothing may grow

# Beyond noise: allocators and a table's free space move by some percent.
GROWTH_MOST = 1.15

_TABLES = """
SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class
WHERE relkind = 'r' AND relname LIKE 'sendq_%' AND relnamespace = 'public'::regnamespace
"""
_RELATIONS = """
SELECT relname, pg_relation_size(oid) FROM pg_class
WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace
"""
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement; ``at`` in seconds since the start. Sizes in megabytes."""

    at: float
    jobs: int
    waiting: int
    worker_mb: float  # of the worker that is never killed
    workers_mb: float  # of all workers
    connections: int
    tables_mb: float
    indexes_mb: float
    redis_mb: float
    redis_connections: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One quantity: its median in the ten minutes after the warm-up, and in the last ten minutes."""

    name: str
    before: float
    after: float

    @property
    def holds(self) -> bool:
        """Whether it did not grow; a few units more are noise."""
        return self.after <= max(self.before * GROWTH_MOST, self.before + 3)


class Samples:
    """Measures in a thread of its own until it is stopped."""

    def __init__(self, system: System, crew: Crew, accepted: Callable[[], int]) -> None:
        self._system, self._crew, self._accepted = system, crew, accepted
        self.taken: list[Sample] = []
        self._relations: list[tuple[float, dict[str, float]]] = []  # seconds; megabytes by table and index
        self.spared = 0  # process id of the worker that is never killed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Start to measure."""
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring."""
        self._ended.set()
        self._thread.join()

    def growth(self) -> Sequence[Growth]:
        """Each quantity, after the warm-up and at the end; nothing if the run was too short to compare."""
        last = self.taken[-1].at if self.taken else 0.0
        if last < 2 * WARM_S:
            return []
        early = [one for one in self.taken if WARM_S <= one.at < 2 * WARM_S]
        late = [one for one in self.taken if one.at >= last - WARM_S]
        names = ("worker_mb", "workers_mb", "connections", "tables_mb", "indexes_mb", "redis_mb", "redis_connections")
        return [Growth(name, _median(early, name), _median(late, name)) for name in names]

    def relations(self, most: int = 6) -> Sequence[Growth]:
        """The tables and indexes that grew most from the end of the warm-up to the end of the run."""
        warm = [sizes for at, sizes in self._relations if at >= WARM_S]
        if len(warm) < 2:
            return []
        found = [Growth(name, warm[0].get(name, 0.0), size) for name, size in warm[-1].items()]
        return sorted(found, key=lambda one: one.before - one.after)[:most]

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(EVERY_S):
            with suppress(SendqError, exc.SQLAlchemyError, psutil.Error):
                self.taken.append(self._measure(time.monotonic() - began))

    def _measure(self, at: float) -> Sample:
        sizes = {worker.pid: psutil.Process(worker.pid).memory_info().rss / 1e6 for worker in self._crew.workers}
        with reading(self._system.engine) as connection:
            tables, indexes = connection.execute(text(_TABLES)).one()
            sizes_of = connection.execute(text(_RELATIONS)).all()
            self._relations.append((at, {name: round(size / 1e6, 2) for name, size in sizes_of}))
            connections = connection.execute(text(_CONNECTIONS)).scalar_one()
            waiting = connection.execute(text("SELECT count(*) FROM sendq_job WHERE state = 'queued'")).scalar_one()
        with redis_client(self._system.redis.url) as client:
            memory = int(client.info("memory")["used_memory"])
            clients = int(client.info("clients")["connected_clients"])
        return Sample(
            round(at, 1),
            self._accepted(),
            int(waiting),
            round(sizes.get(self.spared, 0.0), 1),
            round(sum(sizes.values()), 1),
            int(connections),
            round(int(tables or 0) / 1e6, 2),
            round(int(indexes or 0) / 1e6, 2),
            round(memory / 1e6, 2),
            clients,
        )


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(statistics.median(asdict(one)[name] for one in samples)) if samples else 0.0
