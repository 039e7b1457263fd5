"""Sixteen processes that enqueue single jobs as fast as they can. A part of ``scale``.

``python -m benchmarks.writers URL SECONDS NUMBER`` is one of them: it reports when it is ready, begins at a line on
stdin, and reports how many it has committed.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Engine, update

from benchmarks.latency import percentile
from sendq import Message, SendQueue
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching.lanes import NEVER
from sendq.ledger.enqueue import CHANNEL

WRITERS = 16
LANES = 1_000

WORDS = (
    f"{WRITERS} processes enqueue single messages of 2 kB, each in a transaction of its own. *polls*: a dispatcher that"
    " is awake, or one that no notification can reach. *every commit rings*: one that asked to be woken, and never has"
    " time to take that back. *a worker*: what really happens, with all lanes held, so that it does nothing but"
    " dispatch."
)


def measure(ledger: Engine, *, seconds: float, rung: bool | None) -> dict[str, Any]:
    """Commits per second of all writers. ``rung``: whether every commit notifies; None: as a worker requests it."""
    if rung is not None:
        leader = schema.leader
        with writing(ledger) as connection:
            connection.execute(update(leader).values(sleeps_until=NEVER if rung else 0))
    url = ledger.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "benchmarks.writers", url, str(seconds)]
    with contextlib.ExitStack() as stack:
        if rung:
            stack.enter_context(listening(ledger))
        running = [stack.enter_context(writer([*command, str(number)])) for number in range(WRITERS)]
        for one in running:
            one.stdout.readline()  # type: ignore[union-attr]  # it is ready
        for one in running:
            one.stdin.write("begin\n")  # type: ignore[union-attr]
            one.stdin.flush()  # type: ignore[union-attr]
        found = [json.loads(one.stdout.readline()) for one in running]  # type: ignore[union-attr]
    return {
        "dispatcher": {None: "a worker", False: "polls", True: "every commit rings"}[rung],
        "commits_per_s": round(sum(one["commits"] for one in found) / seconds),
        "p50_ms": statistics.median(one["p50_ms"] for one in found),
        "p99_ms": statistics.median(one["p99_ms"] for one in found),
    }


@contextlib.contextmanager
def writer(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A writer, which reports when it is ready."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def listening(ledger: Engine) -> Iterator[None]:
    """A connection that is notified and ignores it."""
    arguments, options = ledger.dialect.create_connect_args(ledger.url)
    over = threading.Event()
    with psycopg.connect(*arguments, **options, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")

        def hear() -> None:
            while not over.is_set():
                for _ in connection.notifies(timeout=0.2):
                    pass

        beside = threading.Thread(target=hear)
        beside.start()
        try:
            yield
        finally:
            over.set()
            beside.join()


def write(url: str, seconds: float, number: int) -> dict[str, Any]:
    """Enqueue single jobs for ``seconds`` after a line on stdin; returns the result."""
    queue = SendQueue(url)
    send = partial(queue.send, message=Message(to=["leyah@example.com"], subject="Invoice 42", body="x" * 2_000))
    send(f"grant-{number}", provider="imap")  # loads what is only loaded once
    print("ready", flush=True)
    sys.stdin.readline()
    took: list[float] = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        send(f"grant-{(len(took) * WRITERS + number) % LANES}", provider="imap")
        took.append(time.monotonic() - began)
    return {"commits": len(took), "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}


if __name__ == "__main__":
    print(json.dumps(write(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))), flush=True)
