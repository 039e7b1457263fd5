"""Shared by the benchmarks: real servers, the simulator, one worker process, and CPU times of processes."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, Select, func, select

from sendq import State
from sendq.ledger.db import schema
from sendq.ledger.db.engine import reading
from tests.support.servers import PgServer
from worker.processes.guard import Guarded
from worker.redis.embedded import redis_client

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
API_KEY = "nyk_benchmark"
LIMIT_S = 300.0
WORKERS = select(func.count()).select_from(schema.worker)
SENT = select(func.count()).where(schema.job.c.state == State.SENT)
PACKAGES = ("celery", "kombu", "redis", "aiohttp", "uvloop", "sqlalchemy", "psycopg")


def machine() -> dict[str, str]:
    """The machine on which the numbers were measured."""
    return {
        "machine": f"{os.cpu_count()} x {_cpu_name()}, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


@contextlib.contextmanager
def simulator(
    home: Path, latency: float, certificate: tuple[Path, Path] | None, *, bytes_per_s: float | None = None
) -> Iterator[str]:
    """The simulator in its own process; its address. ``bytes_per_s``: how fast it reads a body (None: no limit)."""
    log = home / "simulator.log"
    log.unlink(missing_ok=True)  # its first line is the address
    command = [sys.executable, "-m", "sendq.simulator", "--api-key", API_KEY, "--latency", str(latency), "--no-bodies"]
    if certificate is not None:
        command += ["--tls", *map(str, certificate)]
    if bytes_per_s is not None:
        command += ["--bytes-per-s", str(bytes_per_s)]
    running = Guarded(command, log=log)
    try:
        wait_until(lambda: log.read_text().startswith("http"), running, log)
        yield log.read_text().split()[0]
    finally:
        running.stop()


@contextlib.contextmanager
def worker(
    home: Path, ledger: Engine, variables: dict[str, str], *, program: str = "worker", name: str = "worker"
) -> Iterator[psutil.Process]:
    """One worker process that is ready: its heartbeats are in the ledger.

    ``program``: the module that runs; ``name``: the name of its log.
    """
    log = home / f"{name}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SENDQ_", "NYLAS_"))}
    others = count(ledger, WORKERS)
    running = Guarded(
        [sys.executable, "-m", program],
        log=log,
        env={**environment, **variables},
        grace_s=40.0,
    )
    try:
        wait_until(lambda: count(ledger, WORKERS) > others, running, log)
        (process,) = psutil.Process(running.pid).children()
        yield process
    finally:
        running.stop()


def wait_until(what: Callable[[], bool], running: Guarded, log: Path) -> None:
    """Wait for a condition. Raises ``RuntimeError`` with its output if the process ends or the limit passes first."""
    deadline = time.monotonic() + LIMIT_S
    while not what():
        if running.ended() or time.monotonic() > deadline:
            raise RuntimeError(f"it did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def count(ledger: Engine, question: Select[Any]) -> Any:
    with reading(ledger) as connection:
        return connection.execute(question).scalar_one()


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def tree_cpu(root: psutil.Process) -> float:
    """CPU seconds of a process and its descendants, including those that have ended."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_memory_mb(root: psutil.Process) -> float:
    """The peak resident memory of a process and its descendants so far, from the kernel (VmHWM)."""
    kilobytes = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return kilobytes * 1024 / 1e6


def fsync_ms(directory: Path, times: int = 50) -> float:
    """The median time until a written page is on this disk."""
    took = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(bytes(8_192))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 2)


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes started in this block run only on that core; on any core if there are fewer, or no such system call.

    Blocks may be nested: cores are numbered among all cores of this program, not those of the outer block.
    """
    if len(CORES) <= number:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CORES[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def servers_cpu(pg: PgServer, redis_url: str) -> float:
    """CPU seconds of PostgreSQL and of Redis."""
    with redis_client(redis_url) as client:
        used: Any = client.info("cpu")
    return float(postgres_cpu(pg) + used["used_cpu_user"] + used["used_cpu_sys"])


def postgres_cpu(pg: PgServer) -> float:
    """CPU seconds of PostgreSQL, including sessions that have ended."""
    postmaster = psutil.Process(int((pg.socket_dir / "data" / "postmaster.pid").read_text().split()[0]))
    ended = postmaster.cpu_times()
    total = cpu(postmaster) + ended.children_user + ended.children_system
    for session in postmaster.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += cpu(session)
    return total


def ms(seconds: float, jobs: int) -> float:
    return round(seconds / jobs * 1000, 3)


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
