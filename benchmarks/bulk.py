"""One bulk call: 100,000 modifications enqueued on PostgreSQL, and cancelled again; time, CPU and memory of the caller.

    ./dev bench bulk [--jobs 100000] [--report DIRECTORY]

Each part runs in its own process to measure its memory: the peak above what the process held before the call, which
includes the ids themselves. The call is repeated with a key (which adds the digest of all ids) and with a tenth of the
jobs: memory is flat if the difference is only that of the ids. Then the batch is cancelled, and meanwhile the longest
wait of a small transaction that locks one lane is measured: a cancel must not block a lane.

PostgreSQL runs with fsync off, as in the tests: the caller's CPU is the same, and commits wait less.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import reporting
from sendq import SendQueue
from sendq.ids import lane_id
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, writing
from sendq.ledger.dispatching import lanes
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.rules.paces import Paces
from tests.support.servers import running_postgres

GRANT = "bench"


def main(arguments: list[str]) -> int:
    """Exit status 0."""
    given = _parser().parse_args(arguments)
    if given.part:
        print(json.dumps(enqueue(given.url, given.jobs, given.ids, given.key)))
        return 0
    lines = [
        *reporting.head("One bulk call", f"./dev bench bulk --jobs {given.jobs}"),
        "",
        *reporting.facts(measure(given)),
    ]
    reporting.write(given.report / "bulk.md", lines)
    print("\n".join(lines))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench bulk", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--ids", choices=["list", "generator"], default="generator", help="how the ids are given")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All parts on one server."""
    with running_postgres() as pg, pg.database() as name:
        url = pg.url(name)
        ledger = open_engine(url)
        migrate.upgrade(ledger)
        small = _part(url, given.jobs // 10, given.ids)
        plain = _part(url, given.jobs, given.ids)
        keyed = _part(url, given.jobs, given.ids, key="bulk")
        cancelled = cancel(url, str(keyed["batch"]))
        ledger.dispose()
    return {
        "jobs": given.jobs,
        "enqueue_wall_s": plain["wall_s"],
        "enqueue_cpu_ms_per_job": round(plain["cpu_s"] / given.jobs * 1000, 4),
        "with_key_cpu_ms_per_job": round(keyed["cpu_s"] / given.jobs * 1000, 4),
        "ids_mb": plain["ids_mb"],
        "peak_over_start_mb": plain["grown_mb"],
        "with_key_peak_over_start_mb": keyed["grown_mb"],
        "tenth_of_jobs_peak_over_start_mb": small["grown_mb"],
        **cancelled,
    }


def _part(url: str, jobs: int, ids: str, key: str | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "bulk", "--part", "--url", url, "--jobs", str(jobs), "--ids", ids]
    done = subprocess.run(command + (["--key", key] if key else []), check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def enqueue(url: str, jobs: int, ids: str, key: str | None) -> dict[str, Any]:
    """One call, after a small one that loads what is only loaded once."""
    queue = SendQueue(url)
    queue.modify("warm", [f"{number:016x}" for number in range(2_000)], starred=True)
    names = (f"{number:016x}" for number in range(jobs))
    given = list(names) if ids == "list" else names
    before, began, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    batch = queue.modify(GRANT, given, starred=True, key=key)
    return {
        "batch": batch.id,
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": time.process_time() - cpu,
        "grown_mb": round(_peak_mb() - before, 1),
        "ids_mb": round(jobs * (sys.getsizeof("0" * 16) + 8) / 1e6, 1),
    }


def cancel(url: str, batch: str) -> dict[str, Any]:
    """Cancel the batch while another connection repeatedly locks its lane."""
    ledger = open_engine(url)
    queue = SendQueue(ledger)
    with writing(ledger) as connection:
        now = time.time_ns() // 1000
        wake_lanes(connection, take_wakes(connection, limit=100), now=now, paces=Paces())
    waits: list[float] = []
    over = threading.Event()

    def lock_again() -> None:
        while not over.wait(0.005):
            began = time.perf_counter()
            with writing(ledger) as connection:
                lanes.lock(connection, [lane_id("default", GRANT)])
            waits.append(time.perf_counter() - began)

    beside = threading.Thread(target=lock_again)
    beside.start()
    before, began = _peak_mb(), time.perf_counter()
    queue.cancel_batch(batch)
    took = time.perf_counter() - began
    over.set()
    beside.join()
    counts = {state.value: count for state, count in queue.batch(batch).counts.items()}
    ledger.dispose()
    return {
        "cancel_wall_s": round(took, 2),
        "cancel_counts": counts,
        "cancel_peak_over_start_mb": round(_peak_mb() - before, 1),
        "lane_lock_wait_max_ms": round(max(waits) * 1000, 1),
    }


def _peak_mb() -> float:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
