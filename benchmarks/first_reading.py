"""The worker's CPU per send: one worker process, a real PostgreSQL and Redis, the simulator as a process of its own.

    ./dev bench first-reading --lanes 1000 --jobs 5000 --latency 0.2 --tls

The worker is started first; its clock is read, one transaction enqueues all jobs, and when the ledger says that all are
sent the clock is read again: dispatcher, recorder and rescuer are in the number, the start of the process is not. The
wall time is the machine's, on which simulator, servers and worker share the cores; CPU per send depends less on that.

One run, no repetitions: a reading, not a comparison. PostgreSQL runs with fsync off, as in the tests, so commits cost
the worker's CPU what they cost anywhere, and wait less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from benchmarks.certificate import write_certificate
from benchmarks.stage import API_KEY, LIMIT_S, count, cpu, machine, ms, servers_cpu, simulator, worker
from sendq import Message, Options, Send, SendQueue, State
from sendq.ledger import migrate, schema
from sendq.ledger.engine import open_engine
from tests.support.servers import running_postgres
from worker.embedded import EmbeddedRedis

BODY_CHARACTERS = 2_000  # of a short letter in HTML
SENT = select(func.count()).where(schema.job.c.state == State.SENT)


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
    parser = argparse.ArgumentParser(prog="./dev bench first-reading", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, default=1_000, help="grants among which the jobs go round")
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--latency", type=float, default=0.2, metavar="SECONDS", help="how long the API takes")
    parser.add_argument("--concurrency", type=int, default=500, help="calls in flight (SENDQ_CONCURRENCY)")
    parser.add_argument("--provider", default="imap", help="of all grants; its published limits hold")
    parser.add_argument("--tls", action="store_true", help="the API speaks TLS, with a certificate made for this run")
    parser.add_argument("--json", action="store_true")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One run, from empty servers to the last job sent; the numbers by their names, with their units in them."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sendq-bench-")))
        pg = stack.enter_context(running_postgres())
        url = pg.url(stack.enter_context(pg.database()))
        redis = stack.enter_context(EmbeddedRedis(home / "redis"))
        ledger = open_engine(url)
        stack.callback(ledger.dispose)
        migrate.upgrade(ledger)
        certificate = write_certificate(home) if given.tls else None
        api = stack.enter_context(simulator(home, given.latency, certificate))
        process = stack.enter_context(worker(home, ledger, {
            "DATABASE_URL": url, "REDIS_URL": redis.url, "NYLAS_API_KEY": API_KEY, "NYLAS_API_URI": api,
            "SENDQ_CONCURRENCY": str(given.concurrency), "SENDQ_HOME": str(home),
            **({"SSL_CERT_FILE": str(certificate[0])} if certificate else {}),
        }))  # fmt: skip
        sends = _sends(given)
        before, servers_before = cpu(process), servers_cpu(pg, redis.url)
        own, began = time.process_time(), time.perf_counter()
        SendQueue(ledger).send_many(sends)
        own, enqueued = time.process_time() - own, time.perf_counter()
        _wait_for_all(ledger, given.jobs)
        drained = time.perf_counter()
        after, servers_after = cpu(process), servers_cpu(pg, redis.url)
        return {
            **{name: value for name, value in vars(given).items() if name != "json"},
            "sent": count(ledger, SENT),
            "attempts": count(ledger, select(func.count()).select_from(schema.attempt)),
            "worker_cpu_ms_per_send": ms(after - before, given.jobs),
            "servers_cpu_ms_per_send": ms(servers_after - servers_before, given.jobs),
            "enqueue_cpu_ms_per_job": ms(own, given.jobs),
            "enqueue_wall_s": round(enqueued - began, 2),
            "drain_wall_s": round(drained - enqueued, 2),
            "worker_rss_mb": round(process.memory_info().rss / 1e6),
            **machine(),
            "postgresql": count(ledger, select(func.current_setting("server_version"))),
        }


def _sends(given: argparse.Namespace) -> list[Send]:
    options = Options(provider=given.provider)
    return [
        Send(
            f"grant-{number % given.lanes}",
            Message(to=["leyah@example.com"], subject=f"Invoice {number}", body="x" * BODY_CHARACTERS),
            options,
        )
        for number in range(given.jobs)
    ]


def _wait_for_all(ledger: Engine, jobs: int) -> None:
    """Wait until all are sent, or the limit is over; asks four times a second, which the servers' CPU does not feel."""
    deadline = time.monotonic() + LIMIT_S
    while count(ledger, SENT) < jobs and time.monotonic() < deadline:
        time.sleep(0.25)
