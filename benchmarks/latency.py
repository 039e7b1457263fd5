"""An idle system: how soon a job is on the wire, and how much CPU idling costs.

    ./dev bench latency [--jobs 300] [--idle-s 60] [--ledgers postgresql,sqlite] [--at DIRECTORY] [--report DIRECTORY]

One worker process with default settings, without ``-E`` and Flower; real PostgreSQL (with fsync) and Redis, the
simulator in this process, so that both ends of a wait are measured by one clock: from the return of the enqueue, which
has committed, to the arrival of the request. Jobs come so rarely that the dispatcher is asleep.

Then no jobs come, and the CPU of the worker process is measured; the CPU of a job is what the worker used beyond that.
For a missed bar the report includes a profile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, select, text

from benchmarks import accounting, reporting
from benchmarks.reporting import Bar
from benchmarks.stage import API_KEY, cpu, fsync_ms, postgres_cpu, worker
from sendq import Message, SendQueue, clock
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.simulator import Simulator
from tests.support.servers import PgServer, running_postgres
from worker.redis.embedded import EmbeddedRedis

P50_MS, P99_MS, IDLE_PERCENT = {"postgresql": 4.0, "sqlite": 8.0}, 50.0, 1.0

LANES = 50
MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42", body="x" * 2_000)

# Between two jobs, and before the CPU is read: by then the dispatcher is asleep (after 50 ms with nothing to do), and
# the follow-up work of a job (the commit of its outcome, the sum of a batch) is done.
BETWEEN_S = 0.25
SETTLED_S = 3.0

PROFILED_S = 20.0
LOGGED_JOBS = 40


def main(arguments: list[str]) -> int:
    """Exit status 1 if a bar was missed."""
    given = _parser().parse_args(arguments)
    found = {name: measure(name, given) for name in given.ledgers.split(",")}
    held = [bar for ledger, values in found.items() for bar in bars_of(ledger, values)]
    print(json.dumps(found, indent=2))
    report(given, found, held)
    return 0 if all(bar.met for bar in held) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench latency", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--idle-s", type=float, default=60.0, metavar="SECONDS", help="how long nothing comes")
    parser.add_argument("--ledgers", default="postgresql,sqlite", help="of: postgresql, sqlite")
    parser.add_argument("--at", type=Path, metavar="DIRECTORY", help="below which the ledger's files lie")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    return parser


def bars_of(ledger: str, found: Mapping[str, Any]) -> list[Bar]:
    """The bars for this kind of ledger."""
    return [
        Bar(f"{ledger}: commit → wire, p50, ms", found["p50_ms"], P50_MS[ledger]),
        Bar(f"{ledger}: commit → wire, p99, ms", found["p99_ms"], P99_MS),
        Bar(f"{ledger}: CPU of the idle worker, % of a core", found["idle_worker_percent"], IDLE_PERCENT),
    ]


# --- the stage --------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """Servers, a simulator, and the environment of a worker for them."""

    ledger: Engine
    api: Simulator
    home: Path
    variables: dict[str, str]
    pg: PgServer | None

    @contextlib.contextmanager
    def worker(self, program: str = "worker", further: Mapping[str, str] | None = None) -> Iterator[psutil.Process]:
        """A worker with the default settings."""
        with worker(self.home, self.ledger, {**self.variables, **(further or {})}, program=program) as process:
            yield process


@contextlib.contextmanager
def staged(name: str, at: Path | None) -> Iterator[Stage]:
    """A ledger on this kind of database, and everything else except the worker."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-", dir=at)))
        pg = stack.enter_context(running_postgres(at, fsync="on")) if name == "postgresql" else None
        url = f"sqlite:///{home}/ledger.db" if pg is None else pg.url(stack.enter_context(pg.database()))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        ledger = open_engine(url)
        stack.callback(ledger.dispose)
        migrate.upgrade(ledger)
        # Known to work, otherwise the first jobs would go one by one.
        known = {"application": "default", "provider": "imap", "ramp": None, "proven_at": clock.now()}
        with writing(ledger) as connection:
            insert_new(connection, schema.pair, [known], returning="provider")
        api = stack.enter_context(Simulator(API_KEY, log_bodies=False))
        environment = {"DATABASE_URL": url, "REDIS_URL": redis.url, "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api.url}
        yield Stage(ledger, api, home, {**environment, "SENDQ_HOME": str(home)}, pg)


# --- what is measured -------------------------------------------------------------------------------------------------


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Measure waits, then idle CPU; with a profile for each that misses its bar."""
    with staged(name, given.at) as stage:
        found: dict[str, Any] = {"jobs": given.jobs, "fsync_ms": fsync_ms(stage.home)}
        with stage.worker() as process:
            send(stage, LANES, between_s=0.02)
            before, began = cpu(process), time.monotonic()
            found |= waits(stage, send(stage, given.jobs, between_s=BETWEEN_S))
            busy_s, lasted = cpu(process) - before, time.monotonic() - began
            found |= idleness(stage, process, given.idle_s)
            above_idle_s = busy_s - found["idle_worker_percent"] / 100 * lasted
            found["worker_ms_per_job"] = round(above_idle_s / given.jobs * 1000, 2)
            if stage.pg is not None:
                with accounting.logged(stage.pg) as statements:
                    send(stage, LOGGED_JOBS, between_s=BETWEEN_S)
                found["statements"] = accounting.rows_of(statements, LOGGED_JOBS, most=60)
        in_time, at_once, idle = (bar.met for bar in bars_of(name, found))
        late, busy = not (in_time and at_once), not idle
        if late:
            jobs = int(PROFILED_S / BETWEEN_S)
            found["profile of waits"] = reporting.profile(
                stage.worker,
                after_s=SETTLED_S,
                for_s=PROFILED_S,
                meanwhile=lambda: send(stage, jobs, between_s=BETWEEN_S),
            )
        if busy:
            found["profile of idleness"] = reporting.profile(stage.worker, after_s=SETTLED_S, for_s=PROFILED_S)
        return found


@dataclass(frozen=True, slots=True)
class Sent:
    """When an enqueue returned, by the clock of the waits and by the ledger's clock."""

    monotonic: float
    at: clock.Micros


def send(stage: Stage, jobs: int, *, between_s: float) -> dict[str, Sent]:
    """Enqueue jobs one by one, each a while after the previous one has arrived."""
    queue, sent = SendQueue(stage.ledger), {}
    for number in range(jobs):
        job = queue.send(f"grant-{number % LANES}", MESSAGE, provider="imap")
        sent[job.id] = Sent(time.monotonic(), clock.now())
        stage.api.wait_for(lambda api, wanted=job.id: any(one.job == wanted for one in reversed(api.requests)), 60)  # type: ignore[misc]
        time.sleep(between_s)
    return sent


def waits(stage: Stage, sent: Mapping[str, Sent]) -> dict[str, Any]:
    """The times from the return of the enqueue to the arrival of the request, in total and by step."""
    arrived = {one.job: one.at for one in reversed(stage.api.requests) if one.operation == "send"}
    took = [max(0.0, arrived[job] - one.monotonic) for job, one in sent.items()]
    attempts = schema.attempt.c
    with reading(stage.ledger) as connection:
        rows = connection.execute(select(attempts.job_id, attempts.begun_at))
        called = {str(row.job_id): row.begun_at for row in rows}
    to_call = [(called[job] - one.at) / clock.SECOND for job, one in sent.items()]
    to_wire = [whole - before for whole, before in zip(took, to_call, strict=True)]
    return {
        "p50_ms": percentile(took, 0.5),
        "p90_ms": percentile(took, 0.9),
        "p99_ms": percentile(took, 0.99),
        "longest_ms": percentile(took, 1.0),
        "commit_to_call_p50_ms": percentile(to_call, 0.5),
        "call_to_wire_p50_ms": percentile(to_wire, 0.5),
    }


def percentile(took: list[float], share: float) -> float:
    """A percentile, in milliseconds."""
    ordered = sorted(took)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2)


def idleness(stage: Stage, process: psutil.Process, seconds: float) -> dict[str, Any]:
    """The resources used while no jobs come."""
    time.sleep(SETTLED_S)
    before, began = used(stage, process), time.monotonic()
    time.sleep(seconds)
    after, lasted = used(stage, process), time.monotonic() - began
    return {f"idle_{name}": round((after[name] - before[name]) / lasted, 2) for name in before}


def used(stage: Stage, process: psutil.Process) -> dict[str, float]:
    """Counters that only increase; the CPU in percent of a second."""
    switches = [
        int(line.split()[1])
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    ]
    found = {"worker_percent": cpu(process) * 100, "worker_wakeups_per_s": sum(switches)}
    if stage.pg is not None:
        commits = text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        with reading(stage.ledger) as connection:
            committed = connection.execute(commits).scalar_one()
        found |= {"postgresql_percent": postgres_cpu(stage.pg) * 100, "transactions_per_s": committed}
    return found


# --- the report -------------------------------------------------------------------------------------------------------


def report(given: argparse.Namespace, found: Mapping[str, dict[str, Any]], held: list[Bar]) -> None:
    """Write ``latency.md``."""
    lines = reporting.head("Latency, and the price of waiting", f"./dev bench latency --jobs {given.jobs}")
    lines += reporting.bars(held)
    for name, values in found.items():
        plain = {
            what: value for what, value in values.items() if what != "statements" and not what.startswith("profile")
        }
        lines += reporting.section(name, "", reporting.facts(plain))
        if "statements" in values:
            words = "By the server's log, of the enqueue, the worker, and whatever asks now and then."
            lines += reporting.section(f"{name}: statements", words, reporting.table(values["statements"]))
        for what, value in values.items():
            if what.startswith("profile"):
                lines += reporting.profile_lines(f"{name}: {what}", value)
    reporting.write(given.report / "latency.md", lines)
