"""Finished jobs go by the hundred thousand, while others enqueue: what these notice of it. A part of ``scale``.

``python -m benchmarks.retention URL`` is the pruner of a worker, alone in its process: one round, until all is done.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, func, select, text

from benchmarks.latency import percentile
from benchmarks.stage import count
from sendq import Message, SendQueue, State, clock
from sendq.ledger.db import schema
from sendq.ledger.db.engine import open_engine, writing
from settings import Settings
from tests.support.leading import FixedLeadership
from worker.leading.pruner import DAY, Pruner

MOST_TIMES = 2.0

WORDS = (
    "Sends that ended long ago, each with its body and its attempt, while a web application enqueues single messages"
    " again and again; first without the keeper, then beside it."
)

# Between two enqueues: often enough to notice a stall, rarely enough not to be the load.
EVERY_S = 0.02

MESSAGE = Message(to=["leyah@example.com"], subject="Invoice 42", body="x" * 2_000)
FINISHED = select(func.count()).where(schema.job.c.state == State.SENT)

OLD_DAYS = 400
_AGE = f"interval '-{OLD_DAYS} days'"
_JOBS = text(
    "INSERT INTO sendq_job (id, lane_id, operation, form, priority, state, due_at, next_at, created_at, attempts,"
    " key_at, finished_at, rule, message_id)"
    f" SELECT uuidv7({_AGE}), gen_random_uuid(), 'send', 'json', 1, 'sent', :at + n, :at + n, :at + n, 1,"
    " :at + n, :at + n, 'accepted', md5(n::text) FROM generate_series(1, :number) AS n"
)
_BODIES = text(
    "INSERT INTO sendq_payload (job_id, body, content_type)"
    " SELECT id, convert_to(repeat(md5(id::text), 60), 'UTF8'), 'application/json' FROM sendq_job"
)
_ATTEMPTS = text(
    "INSERT INTO sendq_attempt (id, job_id, generation, begun_at, ended_at, status, rule, sent, replayed)"
    f" SELECT uuidv7({_AGE}), id, 0, finished_at, finished_at, 200, 'accepted', 'yes', false FROM sendq_job"
)


def measure(ledger: Engine, *, finished: int, seconds: float) -> dict[str, Any]:
    """How long enqueues take, alone and beside the pruner."""
    fill(ledger, finished)
    queue = SendQueue(ledger)
    enqueue(queue, until=_after(min(seconds, 2.0)))  # loads what is only loaded once
    alone = enqueue(queue, until=_after(seconds))
    command = [sys.executable, "-m", "benchmarks.retention", ledger.url.render_as_string(hide_password=False)]
    pruner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert pruner.stdout is not None
        pruner.stdout.readline()  # it begins
        enough, left = _after(seconds), count(ledger, FINISHED)
        began = time.monotonic()
        beside = enqueue(queue, until=lambda: enough() or pruner.poll() is not None)
        lasted, gone = time.monotonic() - began, left - count(ledger, FINISHED)
    finally:
        pruner.terminate()
        pruner.wait()
        if pruner.stdout is not None:
            pruner.stdout.close()
    p99_alone, p99_beside = percentile(alone, 0.99), percentile(beside, 0.99)
    return {
        "finished_jobs": finished,
        "watched_s": round(lasted, 1),
        "gone_jobs": gone,
        "enqueues_alone": len(alone),
        "enqueues_beside": len(beside),
        "p50_alone_ms": percentile(alone, 0.5),
        "p50_beside_ms": percentile(beside, 0.5),
        "p99_alone_ms": p99_alone,
        "p99_beside_ms": p99_beside,
        "longest_alone_ms": percentile(alone, 1.0),
        "longest_beside_ms": percentile(beside, 1.0),
        "p99_times": round(p99_beside / p99_alone, 2),
    }


def fill(ledger: Engine, number: int) -> None:
    """Write a number of sends that ended long ago."""
    with writing(ledger) as connection:
        connection.execute(_JOBS, {"at": clock.now() - OLD_DAYS * DAY, "number": number})
        connection.execute(_BODIES)
        connection.execute(_ATTEMPTS)
    with ledger.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def enqueue(queue: SendQueue, *, until: Callable[[], bool]) -> list[float]:
    """Enqueue single messages; returns how long each took, in seconds."""
    took: list[float] = []
    while not until():
        began = time.perf_counter()
        queue.send(f"grant-{len(took) % 100}", MESSAGE, provider="imap")
        took.append(time.perf_counter() - began)
        time.sleep(EVERY_S)
    return took


def keep(url: str) -> None:
    """One round of the pruner with the default settings."""
    ledger = open_engine(url)
    settings = Settings.load({"DATABASE_URL": url, "REDIS_URL": "redis://127.0.0.1:9", "NYLAS_API_KEY": "none"})
    pruner = Pruner(ledger, FixedLeadership(), settings, now=clock.now)
    print(json.dumps({"keeps": True}), flush=True)
    pruner.run_once()
    ledger.dispose()


if __name__ == "__main__":
    keep(sys.argv[1])
