"""What grows with the number of waiting jobs, and what does not.

    ./dev bench scale [--most 1000000] [--only sizes,workers,retention,writers] [--at DIRECTORY] [--report DIRECTORY]

    sizes      10,000 to 10,000,000 waiting jobs over up to 100,000 lanes, most of them held: the cost of dispatching
               and recording a fixed number of jobs on the open lanes
    workers    two worker processes compared with one
    retention  finished jobs are deleted by the hundred thousand: how that affects an enqueue
    writers    16 processes that enqueue single jobs: commits per second, with a dispatcher that polls and with one that
               every commit wakes

Real PostgreSQL (with fsync) and Redis, workers with default settings, the simulator in its own process. CPU times are
the operating system's. For a missed bar the report includes plans and a profile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, func, select, text, update

from benchmarks import accounting, filling, reporting, retention, writers
from benchmarks.filling import APPLICATION, DAY, HELD_PROVIDER, PROVIDER, Call
from benchmarks.reporting import Bar
from benchmarks.stage import API_KEY, count, cpu, postgres_cpu, simulator, worker
from sendq import clock
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine, reading, writing
from sendq.ledger.operators import holds
from tests.support.servers import PgServer, running_postgres
from worker.redis.embedded import EmbeddedRedis, redis_client

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
MOST_TIMES = 1.3

LANES_MOST, JOBS_OF_A_LANE = 100_000, 10
OPEN_LANES = 200  # at every size, so that the same jobs are dispatched

# The other lanes: some are held, some belong to a held provider, some wait for their owners to sign in.
IN_HELD_PAIR, CLOSED = 0.3, 0.1

# For a server with 4 GB of memory; everything else is PostgreSQL's default.
SERVER = {"fsync": "on", "shared_buffers": "1GB", "max_wal_size": "4GB"}

WORKERS_LANES, WORKERS_LATENCY_S = 1_000, 0.05
LIMIT_S = 300.0
PROFILED_S = 20.0
TOLD_EVERY = 1_000_000  # jobs of a fill


def main(arguments: list[str]) -> int:
    """Exit status 1 if a bar was missed."""
    given = _parser().parse_args(arguments)
    parts: dict[str, Callable[[Stage], Part]] = {
        "sizes": sizes,
        "workers": two_workers,
        "retention": retained,
        "writers": written,
    }
    found: dict[str, Part] = {}
    with staged(given) as stage:
        for name in given.only.split(","):
            found[name] = parts[name](stage)
            print(json.dumps({name: found[name].rows}, indent=2), flush=True)
            report(given, found)
    return 0 if all(bar.met for part in found.values() for bar in part.bars) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of waiting jobs")
    parser.add_argument("--most", type=int, default=max(SIZES), help="leave larger ones out")
    parser.add_argument("--jobs", type=int, default=5_000, help="dispatched in each round")
    parser.add_argument("--rounds", type=int, default=5, help="that count; one more comes before")
    parser.add_argument("--finished", type=int, default=300_000, help="finished jobs that retention finds")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long enqueues are watched, and writers write")
    parser.add_argument("--only", default="sizes,workers,retention,writers")
    parser.add_argument("--at", type=Path, metavar="DIRECTORY", help="below which the data lie; up to 20 GB")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    return parser


# --- the stage --------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """The results of a part."""

    words: str
    rows: Sequence[Mapping[str, Any]]
    bars: Sequence[Bar] = ()
    further: list[str] = field(default_factory=list)  # lines of the report


@dataclass
class Stage:
    """Servers, and the directory in which workers and simulators may write."""

    given: argparse.Namespace
    pg: PgServer
    redis_url: str
    home: Path

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Engine]:
        """A new ledger, and an empty broker."""
        with self.pg.database() as name:
            ledger = open_engine(self.pg.url(name), pool_size=20)
            migrate.upgrade(ledger)
            with redis_client(self.redis_url) as client:
                client.flushall()
            yield ledger
            ledger.dispose()

    @contextlib.contextmanager
    def worker(
        self, ledger: Engine, api: str, further: Mapping[str, str] | None = None, **named: str
    ) -> Iterator[psutil.Process]:
        """A worker with the default settings."""
        variables = {
            "DATABASE_URL": ledger.url.render_as_string(hide_password=False), "REDIS_URL": self.redis_url,
            "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api, "SENDQ_HOME": str(self.home), **(further or {}),
        }  # fmt: skip
        with worker(self.home, ledger, variables, **named) as process:
            yield process


@contextlib.contextmanager
def staged(given: argparse.Namespace) -> Iterator[Stage]:
    """The servers."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-", dir=given.at)))
        pg = stack.enter_context(running_postgres(given.at, **SERVER))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        yield Stage(given, pg, redis.url, home)


def prove(ledger: Engine) -> None:
    """Mark the open lanes' provider as known to work: the start of an unproven one is not measured here."""
    pair = schema.pair
    with writing(ledger) as connection:
        this = update(pair).where(pair.c.application == APPLICATION, pair.c.provider == PROVIDER)
        connection.execute(this.values(ramp=None, proven_at=clock.now()))


def grants_of(kind: str, number: int) -> list[str]:
    """Their names."""
    return [f"{kind}-{place}" for place in range(number)]


# --- sizes ------------------------------------------------------------------------------------------------------------


def sizes(stage: Stage) -> Part:
    """The same work on ledgers of different sizes."""
    wanted = [size for size in map(int, stage.given.sizes.split(",")) if size <= stage.given.most]
    rows, further, bars = [], [], []
    for size in wanted:
        with stage.ledger() as ledger, simulator(stage.home, 0.0, None) as api:
            row = fill(stage, ledger, size)
            found = dispatched(stage, ledger, api)
            rows.append(row | {name: value for name, value in found.items() if name != "statements"})
            per_job = accounting.rows_of(found["statements"], stage.given.jobs)
            further += reporting.section(f"Statements at {size:,} waiting jobs", "By the server's log.",
                                         reporting.table(per_job))  # fmt: skip
            if size == max(wanted) and len(wanted) > 1:
                times = round(rows[-1]["cpu_ms_per_job"] / rows[0]["cpu_ms_per_job"], 2)
                bars.append(Bar(f"CPU per dispatched job, {size:,} : {wanted[0]:,} waiting", times, MOST_TIMES))
                if not bars[-1].met:
                    further += explained(stage, ledger, api, found["statements"])
    words = (
        f"{stage.given.jobs:,} modifications are dispatched and recorded in each round, on {OPEN_LANES} open lanes (or"
        f" a fifth of all); of the other lanes {1 - IN_HELD_PAIR - CLOSED:.0%} are held, {IN_HELD_PAIR:.0%} belong to"
        f" a held provider, {CLOSED:.0%} are closed. Medians of {stage.given.rounds} rounds; in brackets the least and"
        " the most."
    )
    return Part(words, rows, bars, further)


def fill(stage: Stage, ledger: Engine, size: int) -> dict[str, Any]:
    """Fill the ledger with ``size`` waiting jobs that are not due today."""
    began, until = time.monotonic(), clock.now()
    jobs = size - per_round(stage, size)
    number = lanes_of(size)
    open_, rest = open_grants(size), number - len(open_grants(size))
    in_pair, closed = grants_of("pair", int(rest * IN_HELD_PAIR)), grants_of("closed", int(rest * CLOSED))
    held = grants_of("held", rest - len(in_pair) - len(closed))
    each = jobs / number
    calls: list[Call] = []
    for grants, provider, due_at in ((held, PROVIDER, 0), (in_pair, HELD_PROVIDER, 0), (closed, PROVIDER, 0),
                                     (open_, PROVIDER, until + DAY)):  # fmt: skip
        calls += filling.calls_of(grants, round(each * len(grants)), provider=provider, until=until, due_at=due_at)
    written = 0
    for some in filling.fill(ledger, sorted(calls, key=lambda call: call.at)):
        if (written + some) // TOLD_EVERY > written // TOLD_EVERY:
            print(f"{size:,}: {written + some:,} jobs after {time.monotonic() - began:.0f} s", file=sys.stderr)
        written += some
    filling.take_in(ledger)
    with writing(ledger) as connection:
        holds.hold_pair(connection, APPLICATION, HELD_PROVIDER, until=until + DAY, by=filling.BY, reason="fill",
                        now=clock.now())  # fmt: skip
    filling.hold(ledger, held, until=until + DAY)
    filling.close(ledger, closed)
    with ledger.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))  # as autovacuum does after that many inserts
        connection.execute(text("CHECKPOINT"))
    prove(ledger)
    return {
        "waiting": f"{written:,}",
        "lanes": f"{count(ledger, select(func.count()).select_from(schema.lane)):,}",
        "filled_s": round(time.monotonic() - began),
        "bytes_per_job": accounting.bytes_per_job(ledger, written),
    }


def lanes_of(size: int) -> int:
    """The number of lanes for ``size`` jobs."""
    return max(10, min(LANES_MOST, size // JOBS_OF_A_LANE))


def open_grants(size: int) -> list[str]:
    """The grants of the open lanes."""
    return grants_of("open", min(OPEN_LANES, lanes_of(size) // 5))


def per_round(stage: Stage, size: int) -> int:
    """Jobs of one round: at most half of all."""
    jobs: int = stage.given.jobs
    return min(jobs, size // 2)


def dispatched(stage: Stage, ledger: Engine, api: str) -> dict[str, Any]:
    """Rounds of one worker: the cost per job."""
    grants = [name for name in open_grants_in(ledger) if name.startswith("open-")]
    jobs = stage.given.jobs
    with stage.worker(ledger, api) as process:
        play(stage, ledger, [process], grants, jobs)
        before = accounting.pages(ledger)
        rounds = [play(stage, ledger, [process], grants, jobs) for _ in range(stage.given.rounds)]
        time.sleep(accounting.PAGES_TOLD_S)
        touched = accounting.pages(ledger) - before - sum(one["pages_of_fill"] for one in rounds)
        with accounting.logged(stage.pg) as statements:
            play(stage, ledger, [process], grants, jobs)
    return {
        **spread("cpu_ms_per_job", [one["worker_ms"] + one["postgresql_ms"] for one in rounds]),
        **spread("worker_ms_per_job", [one["worker_ms"] for one in rounds]),
        **spread("postgresql_ms_per_job", [one["postgresql_ms"] for one in rounds]),
        **spread("jobs_per_s", [one["jobs_per_s"] for one in rounds]),
        "pages_per_job": round(touched / (jobs * len(rounds)), 1),
        "statements_ms_per_job": round(sum(one.ms for one in statements) / jobs, 3),
        "statements": statements,
    }


def open_grants_in(ledger: Engine) -> list[str]:
    """Grants whose lanes are neither held nor closed, and whose provider is not held."""
    lane = schema.lane.c
    wanted = select(lane.grant_id).where(lane.held_until.is_(None), lane.closed_at.is_(None), lane.provider == PROVIDER)
    with reading(ledger) as connection:
        return sorted(connection.execute(wanted).scalars())


def spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    """The median and the range."""
    return {
        name: round(statistics.median(values), 3),
        f"{name}_range": f"[{min(values):.3g} … {max(values):.3g}]",
    }


def play(
    stage: Stage, ledger: Engine, processes: Sequence[psutil.Process], grants: Sequence[str], jobs: int
) -> dict[str, float]:
    """One round: commit calls for a number of jobs, wait until all are done, and read the counters."""
    now = clock.now()
    calls = filling.calls_of(grants, jobs, provider=PROVIDER, until=now)
    pages = accounting.pages(ledger)
    done = sent(ledger)
    with writing(ledger) as connection:
        filling.insert_calls(connection, calls)
        connection.execute(text("SELECT pg_stat_force_next_flush()"))  # for the pages accessed by the fill
        worker_s, postgresql_s = sum(map(cpu, processes)), postgres_cpu(stage.pg)
    began = time.perf_counter()
    pages = accounting.pages(ledger) - pages
    wait_for_rest(ledger)
    lasted = time.perf_counter() - began
    worker_s, postgresql_s = sum(map(cpu, processes)) - worker_s, postgres_cpu(stage.pg) - postgresql_s
    if sent(ledger) - done != jobs:
        raise RuntimeError(f"{sent(ledger) - done} of {jobs} jobs were sent")
    return {
        "worker_ms": worker_s / jobs * 1000,
        "postgresql_ms": postgresql_s / jobs * 1000,
        "jobs_per_s": jobs / lasted,
        "pages_of_fill": pages,
    }


# No new jobs, no open turns, and no open lane due: reads only a few pages, so that the query costs little.
_AT_REST = text(
    "SELECT NOT EXISTS (SELECT FROM sendq_wake) AND NOT EXISTS (SELECT FROM sendq_lane WHERE turn IS NOT NULL)"
    " AND NOT EXISTS (SELECT FROM sendq_lane WHERE application = :application AND provider = :provider"
    " AND turn IS NULL AND next_at <= :soon)"
)
SOON = clock.seconds(60)


def wait_for_rest(ledger: Engine) -> None:
    """Wait until everything that is due is done."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        values = {"application": APPLICATION, "provider": PROVIDER, "soon": clock.now() + SOON}
        with reading(ledger) as connection:
            if connection.execute(_AT_REST, values).scalar_one():
                return
        time.sleep(0.02)
    raise RuntimeError(f"there is still work to do after {LIMIT_S:.0f} s")


def sent(ledger: Engine) -> int:
    """The number of sent jobs."""
    job = schema.job.c
    wanted = select(func.count()).where(job.state == text("'sent'"), job.finished_at.is_not(None))
    return int(count(ledger, wanted))


def explained(stage: Stage, ledger: Engine, api: str, statements: Sequence[accounting.Statement]) -> list[str]:
    """Explain the cost: plans of the most expensive statements, and a profile of the worker."""
    assert ledger.url.database is not None
    lines = reporting.section("Plans", "", accounting.plans(stage.pg, ledger.url.database, statements))
    grants = [name for name in open_grants_in(ledger) if name.startswith("open-")]

    def started(program: str, further: Mapping[str, str]) -> contextlib.AbstractContextManager[psutil.Process]:
        return stage.worker(ledger, api, further, program=program)

    def work() -> None:
        until = time.monotonic() + PROFILED_S
        while time.monotonic() < until:
            play(stage, ledger, [], grants, stage.given.jobs)

    found = reporting.profile(started, after_s=3.0, for_s=PROFILED_S, meanwhile=work)
    return lines + reporting.profile_lines("Profile of the worker", found)


# --- the other parts --------------------------------------------------------------------------------------------------


def two_workers(stage: Stage) -> Part:
    """Measure one worker process, then two."""
    grants, jobs = grants_of("open", WORKERS_LANES), 4 * stage.given.jobs
    rows = []
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(stage.ledger())
        api = stack.enter_context(simulator(stage.home, WORKERS_LATENCY_S, None))
        processes: list[psutil.Process] = []
        for name in ("first", "second"):
            processes.append(stack.enter_context(stage.worker(ledger, api, name=name)))
            play(stage, ledger, processes, grants, stage.given.jobs)
            prove(ledger)
            rounds = [play(stage, ledger, processes, grants, jobs) for _ in range(3)]
            rows.append({
                "processes": len(processes),
                **spread("jobs_per_s", [one["jobs_per_s"] for one in rounds]),
                **spread("workers_ms_per_job", [one["worker_ms"] for one in rounds]),
                **spread("postgresql_ms_per_job", [one["postgresql_ms"] for one in rounds]),
            })  # fmt: skip
    words = (
        f"{jobs:,} modifications in each of three rounds, over {WORKERS_LANES:,} lanes; the API answers after"
        f" {WORKERS_LATENCY_S * 1000:.0f} ms. Workers, PostgreSQL and the API share the machine's cores."
    )
    return Part(words, rows)


def retained(stage: Stage) -> Part:
    """How the pruner affects an enqueue."""
    with stage.ledger() as ledger:
        row = retention.measure(ledger, finished=stage.given.finished, seconds=stage.given.seconds)
    bars = [Bar("p99 of an enqueue beside retention : alone", row["p99_times"], retention.MOST_TIMES)]
    return Part(retention.WORDS, [{"what": what, "value": value} for what, value in row.items()], bars)


def written(stage: Stage) -> Part:
    """Measure many concurrent writers."""
    rows = []
    for rung in (False, True):
        with stage.ledger() as ledger:
            rows.append(writers.measure(ledger, seconds=stage.given.seconds / 2, rung=rung))
    with stage.ledger() as ledger, stage.worker(ledger, "http://127.0.0.1:9", name="held"):
        with writing(ledger) as connection:
            holds.hold_pair(connection, APPLICATION, WHOLE_APPLICATION, until=clock.now() + DAY, by=filling.BY,
                            reason="writers", now=clock.now())  # fmt: skip
        rows.append(writers.measure(ledger, seconds=stage.given.seconds / 2, rung=None))
    return Part(writers.WORDS, rows)


# --- the report -------------------------------------------------------------------------------------------------------


def report(given: argparse.Namespace, found: Mapping[str, Part]) -> None:
    """Write ``scale.md``; called after each part, because the parts take long."""
    command = f"./dev bench scale --most {given.most} --jobs {given.jobs} --rounds {given.rounds}"
    lines = reporting.head("Very many jobs", command)
    lines.append(f"- postgresql: {', '.join(f'{name}={value}' for name, value in SERVER.items())}")
    lines += reporting.bars([bar for part in found.values() for bar in part.bars])
    for name, part in found.items():
        lines += reporting.section(name, part.words, reporting.table(part.rows))
        lines += part.further
    reporting.write(given.report / "scale.md", lines)
