"""Compares sendq with plain Celery (with and without an idempotency key) for the same work and the same kills."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

from sendq import Message, Options, Send, State
from sendq.simulator import Simulator
from tests.chaos.crew import Crew
from tests.chaos.report import Compared
from tests.chaos.stage import LATENCY_S, Scenario, drained, staged
from tests.support.servers import Cluster
from tests.support.system import API_KEY, ROOT, System
from tests.support.waiting import eventually
from worker.redis.embedded import EmbeddedRedis

NAME = "plain-celery"
CREW, LANES, RATE = 3, 60, 60  # jobs per second, or as many as the machine manages
GAP_S = (1.0, 4.0)  # between two kills, in addition to the start of a worker
HELD_UP_S = 2.0  # a mail accepted later than this after its enqueueing was held up by a kill
PROGRAM = ("celery", "-A", "tests.chaos.plain_app", "worker", "--without-gossip", "--without-mingle")
THREADS = 30  # of a plain worker: simultaneous calls
# After this long without a message no more will come: three times the visibility timeout.
SILENCE_S = 90.0


@dataclass(slots=True)
class Side:
    """One way to send: how to enqueue (returns the job's name), the workers, and when no more messages will come."""

    name: str
    api: Simulator
    crew: Crew
    enqueue: Callable[[str], str]
    wait: Callable[[], None]
    in_doubt: Callable[[], int]


def compare(cluster: Cluster, home: Path, *, seed: int, kills: int) -> list[Compared]:
    """Run every side once."""
    sides: list[Callable[[Path], contextlib.AbstractContextManager[Side]]] = [
        lambda directory: _sendq(cluster, directory, seed),
        lambda directory: _plain("Celery", directory, keyed=False),
        lambda directory: _plain("Celery with a key for each mail", directory, keyed=True),
    ]
    found = []
    for number, opened in enumerate(sides):
        directory = home / f"side-{number}"
        directory.mkdir()
        with opened(directory) as side:
            found.append(_measure(side, random.Random(seed), kills))
        print(f"     {found[-1].name}: lost {found[-1].lost}, twice {found[-1].twice}", file=sys.stderr)
    return found


def _measure(side: Side, chance: random.Random, kills: int) -> Compared:
    began = time.monotonic()
    side.crew.start()
    enqueued: dict[str, float] = {}
    grants = random.Random(1)

    def work(until: float) -> None:
        while time.monotonic() < until:
            at = time.time()
            enqueued[side.enqueue(f"grant-{grants.randrange(LANES)}")] = at
            time.sleep(1 / RATE)

    work(time.monotonic() + 3.0)
    for _ in range(kills):
        work(time.monotonic() + chance.uniform(*GAP_S))
        side.crew.kill(chance.choice(side.crew.workers))
        while not side.crew.all_there():
            work(time.monotonic() + 0.1)
    work(time.monotonic() + 3.0)
    last_kill = max(death.at for death in side.crew.board.deaths())
    side.wait()
    first: dict[str, float] = {}
    twice = 0
    for one in side.api.mailbox:
        assert one.job is not None
        twice += one.job in first
        first.setdefault(one.job, one.at)
    delays = sorted(first[name] - at for name, at in enqueued.items() if name in first)
    in_doubt = side.in_doubt()
    return Compared(
        side.name,
        jobs=len(enqueued),
        kills=kills,
        lost=len(enqueued.keys() - first.keys()) - in_doubt,
        twice=twice,
        in_doubt=in_doubt,
        held_up_s=[delay for delay in delays if delay > HELD_UP_S],
        took_s=time.monotonic() - began,
        quiet_s=max(0.0, max(first.values()) - last_kill),
    )


@contextlib.contextmanager
def _sendq(cluster: Cluster, directory: Path, seed: int) -> Iterator[Side]:
    scenario = Scenario("comparison", "the comparison", lambda _stage: None, crew=CREW)
    with staged(scenario, cluster, directory, seed) as stage:
        system = stage.system
        message = Message(to=["leyah@example.com"], subject="Invoice 42", body="<p>42</p>")

        def enqueue(grant: str) -> str:
            return system.queue.send_many([Send(grant, message, Options(provider="google"))])[0].id

        yield Side(
            "sendq",
            system.api,
            stage.crew,
            enqueue,
            wait=lambda: _until_drained(system),
            in_doubt=lambda: system.states()[State.IN_DOUBT],
        )


@contextlib.contextmanager
def _plain(name: str, directory: Path, *, keyed: bool) -> Iterator[Side]:
    with EmbeddedRedis(directory / "redis") as redis, Simulator(api_key=API_KEY, latency=LATENCY_S) as api:
        environ = {
            **os.environ, "PYTHONPATH": str(ROOT), "PLAIN_BROKER": redis.url, "NYLAS_API_KEY": API_KEY,
            "NYLAS_API_URI": api.url, **({"PLAIN_KEYED": "1"} if keyed else {}),
        }  # fmt: skip
        crew = Crew(
            directory, environ, CREW, "-P", "threads", "-c", str(THREADS), "-l", "INFO",
            program=PROGRAM, ready=lambda worker: " ready." in worker.said(),
        )  # fmt: skip
        numbers = iter(range(1, sys.maxsize))
        message = {"to": [{"email": "leyah@example.com"}], "subject": "Invoice 42", "body": "<p>42</p>"}
        try:
            with Celery("producer", broker=redis.url) as producer:

                def enqueue(grant: str) -> str:
                    number = str(next(numbers))
                    producer.send_task("plain.send", (number, grant, message))
                    return number

                yield Side(name, api, crew, enqueue, wait=lambda: _until_silent(api), in_doubt=lambda: 0)
        finally:
            crew.stop()


def _until_drained(system: System) -> None:
    assert drained(system), "sendq did not drain by itself"


def _until_silent(api: Simulator) -> None:
    last = [0, time.monotonic()]

    def silent() -> bool:
        count = len(api.mailbox)
        if count != last[0]:
            last[:] = [count, time.monotonic()]
        return time.monotonic() - last[1] > SILENCE_S

    eventually(silent, "the last mail", limit_s=600)
