"""Memory of a worker with many large files in flight: one worker process, real PostgreSQL and Redis, a slow API.

    ./dev bench attachments --jobs 50 --megabytes 24 --files 5

The API reads each body slowly, so that all of them are on the wire at once. The worker is warmed up by small messages
through the same grants; then its resident memory is read, all jobs are enqueued (the files in turn, each stored once),
and its memory is read repeatedly until all are sent. The kernel's own high-water mark is reported too.

One run without repetitions; simulator and servers share the cores, which affects the CPU figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine, func, select

from benchmarks.stage import API_KEY, LIMIT_S, SENT, count, cpu, machine, simulator, worker
from sendq import Attachment, Message, Options, Send, SendQueue
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine
from tests.support.servers import running_postgres
from worker.redis.embedded import EmbeddedRedis

MEGABYTE = 1_000_000


def main(arguments: list[str]) -> int:
    """Exit status 1 if not every job was sent in time."""
    given = _parser().parse_args(arguments)
    result = measure(given)
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name:<34} {value}" for name, value in result.items()))
    return 0 if result["sent"] == given.jobs else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench attachments", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=50, help="messages, each through a grant of its own")
    parser.add_argument("--megabytes", type=int, default=24, help="of each file")
    parser.add_argument("--files", type=int, default=5, help="how many different files there are")
    parser.add_argument("--bytes-per-s", type=float, default=1.5e6, help="how fast the API reads one body")
    parser.add_argument("--json", action="store_true")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One run; the results by name, with the unit in the name."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-")))
        pg = stack.enter_context(running_postgres())
        url = pg.url(stack.enter_context(pg.database()))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        ledger = open_engine(url)
        stack.callback(ledger.dispose)
        migrate.upgrade(ledger)
        api = stack.enter_context(simulator(home, 0.0, None, bytes_per_s=given.bytes_per_s))
        variables = {
            "DATABASE_URL": url, "REDIS_URL": redis.url, "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api,
            "SENDQ_HOME": str(home),
        }  # fmt: skip
        process = stack.enter_context(worker(home, ledger, variables))
        warmed = _warm_up(ledger, given.jobs)
        before, cpu_before = process.memory_info().rss, cpu(process)
        _reset_high_water(process)
        began = time.perf_counter()
        SendQueue(ledger).send_many(_sends(home, given))
        enqueued = time.perf_counter()
        peak, most_at_once = before, 0
        deadline = time.monotonic() + LIMIT_S
        while (left := given.jobs + warmed - count(ledger, SENT)) and time.monotonic() < deadline:
            peak = max(peak, process.memory_info().rss)
            most_at_once = max(most_at_once, _summary(api)["coming_in"])
            time.sleep(0.1)
        drained = time.perf_counter()
        total = given.jobs * given.megabytes
        return {
            **{name: value for name, value in vars(given).items() if name != "json"},
            "sent": given.jobs - left,
            "most_bodies_at_once": most_at_once,
            "contents_in_ledger": count(ledger, select(func.count()).select_from(schema.content)),
            "worker_rss_before_mb": round(before / MEGABYTE, 1),
            "worker_rss_peak_mb": round(peak / MEGABYTE, 1),
            "worker_high_water_mb": round(_high_water(process) / MEGABYTE, 1),
            "worker_cpu_ms_per_mb": round((cpu(process) - cpu_before) / total * 1000, 2),
            "enqueue_wall_s": round(enqueued - began, 2),
            "drain_wall_s": round(drained - enqueued, 2),
            **machine(),
        }


def _warm_up(ledger: Engine, jobs: int) -> int:
    """Send small messages through all grants, so that lanes and application are ramped up; returns how many."""
    queue = SendQueue(ledger)
    for round_ in range(1, 3):
        sends = [Send(f"grant-{n}", Message(to=["leyah@example.com"]), Options(provider="imap")) for n in range(jobs)]
        queue.send_many(sends)
        deadline = time.monotonic() + LIMIT_S
        while count(ledger, SENT) < round_ * jobs and time.monotonic() < deadline:
            time.sleep(0.1)
    return 2 * jobs


def _sends(home: Path, given: argparse.Namespace) -> list[Send]:
    paths = []
    for number in range(given.files):
        paths.append(home / f"{number}.bin")
        paths[-1].write_bytes(random.Random(number).randbytes(given.megabytes * MEGABYTE))
    files = [Attachment.of(path) for path in paths]
    return [
        Send(
            f"grant-{number}",
            Message(to=["leyah@example.com"], attachments=[files[number % given.files]]),
            Options(provider="imap"),
        )
        for number in range(given.jobs)
    ]


def _summary(api: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{api}/_simulator/", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _reset_high_water(process: psutil.Process) -> None:
    with contextlib.suppress(OSError):  # if the kernel does not allow it, the mark counts from the start of the process
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def _high_water(process: psutil.Process) -> int:
    """The peak resident memory of the process, in bytes; Linux only."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
