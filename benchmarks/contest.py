"""One run of one queue: its servers, the API, its worker on its own core, and the resources they used.

The queue is filled before its worker starts, so that the producer is no bottleneck. The measurement is between two
calls, because the first ones open connections and load code, and during the last ones fewer and fewer are in flight.
Then jobs are enqueued one by one for the same worker, to measure the latency of a job without load.

All CPU times are the operating system's. Those of the servers cover everything from the first enqueued job to the last
finished one, including background work.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import certifi
import psutil

from benchmarks.certificate import write_certificate
from benchmarks.contestants import ROOT, Contestant
from benchmarks.stage import API_KEY, ms, on_core, peak_memory_mb, servers_cpu, tree_cpu, wait_until
from benchmarks.standin import Marks
from tests.support.servers import PgServer, running_postgres
from worker.processes.guard import Guarded
from worker.redis.embedded import EmbeddedRedis

STALL_S = 40.0  # without a single call, after which a queue is abandoned
SETTLE_S = 1.0  # after the last call, for background work of the servers
WORKERS_CORE, OTHERS_CORE = 0, 1


@dataclass(frozen=True)
class Load:
    """The load of every queue: the measured jobs, their lanes, and the jobs that follow one by one."""

    jobs: int
    lanes: int
    in_flight: int
    latency_s: float
    gentle_jobs: int
    per_second: float

    def backlog(self, each: int) -> Load:
        """The same jobs, ``each`` of them on a lane, and none that come one by one."""
        return replace(self, lanes=ceil(self.jobs / each), gentle_jobs=0)


@dataclass(frozen=True)
class Stage:
    """What runs besides the worker."""

    home: Path
    pg: PgServer
    redis: EmbeddedRedis
    api: psutil.Process
    marks: Marks
    variables: dict[str, str]

    def servers_cpu(self) -> float:
        return servers_cpu(self.pg, self.redis.url)


@dataclass(frozen=True)
class Reading:
    """All measurements at one moment."""

    calls: int
    worker: float
    api: float
    at: float


def measure(one: Contestant, load: Load, *, watch: Callable[[int], None] | None = None) -> dict[str, Any]:
    """One run; the results by name, with the unit in the name.

    ``watch`` is called with the worker's process id while it works. Raises ``RuntimeError`` if a program does not
    start, ends too early, or does not send every message exactly once.
    """
    in_flight = one.in_flight(load.in_flight)
    warm, tail = 2 * in_flight, in_flight
    total = warm + max(1, int(load.jobs * one.share)) + tail
    with on_core(OTHERS_CORE), staged(one, load, in_flight) as stage:
        play(one, stage, "prepare")
        servers = stage.servers_cpu()
        producer = play(one, stage, "fill", 0, total)
        with working(one, stage, in_flight) as (running, worker):

            def reading_after(calls: int) -> Reading:
                await_calls(stage, calls, running)
                return Reading(stage.marks.count, tree_cpu(worker), tree_cpu(stage.api), time.monotonic())

            begin = reading_after(warm)
            if watch is not None:
                watch(worker.pid)
            end = reading_after(total - tail)
            await_calls(stage, total, running)
            time.sleep(SETTLE_S)
            servers = stage.servers_cpu() - servers
            sent_once(stage.marks, range(total))
            waits = _gentle(one, stage, load, total, running) if one.gentle and load.gentle_jobs else {}
            memory = peak_memory_mb(worker)
    calls, seconds = end.calls - begin.calls, end.at - begin.at
    return {
        "jobs": calls,
        "jobs_per_s": round(calls / seconds),
        "worker_cpu_ms": ms(end.worker - begin.worker, calls),
        "servers_cpu_ms": ms(servers, total),
        "producer_cpu_ms": ms(producer, total),
        "api_cpu_ms": ms(end.api - begin.api, calls),
        "worker_busy": round((end.worker - begin.worker) / seconds, 2),
        "others_busy": round((ms(servers, total) / 1000 * calls + end.api - begin.api) / seconds, 2),
        "peak_memory_mb": round(memory),
        **waits,
    }


@contextlib.contextmanager
def staged(one: Contestant, load: Load, in_flight: int) -> Iterator[Stage]:
    """Durable PostgreSQL and Redis, the API, and the environment with their addresses."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-")))
        pg = stack.enter_context(running_postgres(fsync="on", shared_buffers="128MB"))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        database = stack.enter_context(pg.database())
        certificate, key = write_certificate(home)
        # Together with the usual CAs, as in production: a client that reads this file often is slow.
        trusted = home / "trusted.pem"
        trusted.write_bytes(Path(certifi.where()).read_bytes() + certificate.read_bytes())
        log = home / "api.log"
        api = Guarded(
            [sys.executable, "-m", "benchmarks.standin", home / "marks", str(load.latency_s), certificate, key], log=log
        )
        stack.callback(api.stop)
        wait_until(lambda: log.read_text().startswith("http"), api, log)
        address = log.read_text().strip()
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SENDQ_", "NYLAS_"))}
        variables |= {name: str(trusted) for name in TRUST}
        variables |= {
            "PYTHONPATH": str(ROOT),
            "PEER_API": address, "PEER_API_KEY": API_KEY, "PEER_REDIS_SOCKET": str(redis.socket_path),
            "PEER_POSTGRES": pg.url(database).replace("+psycopg", ""), "PEER_HOME": str(home),
            "PEER_LANES": str(load.lanes), "PEER_IN_FLIGHT": str(in_flight),
            "DATABASE_URL": pg.url(database), "REDIS_URL": redis.url,
            "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": address,
            "SENDQ_CONCURRENCY": str(in_flight), "SENDQ_HOME": str(home), **one.variables,
        }  # fmt: skip
        yield Stage(home, pg, redis, psutil.Process(api.pid).children()[0], Marks(home / "marks"), variables)


# Where OpenSSL, requests and Node look for trusted CAs.
TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


@contextlib.contextmanager
def working(one: Contestant, stage: Stage, in_flight: int) -> Iterator[tuple[Guarded, psutil.Process]]:
    """The queue's worker, on its own core."""
    command = [part.format(in_flight=in_flight) for part in one.worker]
    with on_core(WORKERS_CORE):
        running = Guarded(command, log=_log(stage), env=stage.variables, grace_s=20.0)
    try:
        wait_until(lambda: bool(psutil.Process(running.pid).children()), running, _log(stage))
        yield running, psutil.Process(running.pid).children()[0]
    finally:
        running.stop()


def play(one: Contestant, stage: Stage, *role: object) -> Any:
    """The output of the queue's program for one role."""
    done = subprocess.run(
        [*one.program, *map(str, role)], env=stage.variables, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{role[0]}: {done.stderr.strip()[-1_000:]}")
    return json.loads(done.stdout) if done.stdout else None


def _gentle(one: Contestant, stage: Stage, load: Load, first: int, running: Guarded) -> dict[str, float]:
    """Milliseconds from when the queue has a job until the API has it."""
    calls = stage.marks.count
    fed = play(one, stage, "drip", first, load.gentle_jobs, load.per_second)
    await_calls(stage, calls + load.gentle_jobs, running)
    arrived = sent_once(stage.marks, range(first, first + load.gentle_jobs), after=calls)
    # A worker may be faster than the return of the enqueue call.
    waits = sorted(max(0.0, (arrived[int(number)] - at) / 1e6) for number, at in fed["taken"].items())
    return {
        "p50_ms": round(statistics.median(waits), 2),
        "p99_ms": round(waits[min(len(waits) - 1, int(len(waits) * 0.99))], 2),
    }


def await_calls(stage: Stage, calls: int, running: Guarded) -> None:
    """Wait until the API has had that many calls; raises ``RuntimeError`` if no more come."""
    seen, since = -1, 0.0
    while (count := stage.marks.count) < calls:
        if count > seen:
            seen, since = count, time.monotonic()
        if running.ended() or time.monotonic() > since + STALL_S:
            said = _log(stage).read_text(errors="replace")[-1_000:]
            raise RuntimeError(f"{count} of {calls} calls came; the worker said: {said}")
        time.sleep(0.01)


def sent_once(marks: Marks, numbers: range, *, after: int = 0) -> dict[int, int]:
    """When each message arrived; raises ``RuntimeError`` unless each arrived exactly once, and nothing else did."""
    calls = [marks.at(place) for place in range(after, marks.count)]
    arrived = {number: stamp for stamp, number in calls}
    if len(calls) != len(numbers) or arrived.keys() != set(numbers):
        raise RuntimeError(f"{len(calls)} calls for {len(numbers)} letters, {len(arrived)} of them different")
    return arrived


def _log(stage: Stage) -> Path:
    return stage.home / "worker.log"
