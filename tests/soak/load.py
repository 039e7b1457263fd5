"""The work of a soak: single sends at a steady rate, each with the webhook of its outcome, and what became of them."""

from __future__ import annotations

import itertools
import random
import threading
import time
from dataclasses import dataclass, field

from aiohttp import web

from sendq import Message, SendQueue
from sendq.enqueueing.options import OptionsGiven
from sendq.errors import LedgerUnavailable, Retryable
from sendq.outcomes import BadOutcome, verify
from tests.support.receivers import SECRET, Receiver

AGAIN_S = 0.2

# Threads that enqueue, as in a web application: one alone would fall behind while the ledger is slow.
CALLERS = 4
HOOK = "webhook:soak"


@dataclass
class Outcomes(Receiver):
    """The receiver of the webhooks: keeps the latest outcome of each job, and nothing else."""

    latest: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # job → sequence, state, rule
    received: int = 0
    forged: int = 0

    async def take(self, request: web.Request) -> web.StreamResponse:
        try:
            outcome = verify(await request.read(), request.headers, secret=SECRET)
        except BadOutcome:
            self.forged += 1
            return web.Response(status=400)
        self.received += 1
        if "state" not in outcome:  # about a grant
            return web.Response()
        job = str(outcome["job_id"])
        known = self.latest.get(job)
        if known is None or known[0] < outcome["sequence"]:
            self.latest[job] = (outcome["sequence"], outcome["state"], str(outcome["rule"]))
        return web.Response()


@dataclass(frozen=True, slots=True)
class Sent:
    """One accepted job: its grant, and when the caller's transaction had committed (wall clock, seconds)."""

    grant: str
    at: float


class Load:
    """``rate`` sends per second over ``grants`` (each with its application), until it is stopped."""

    def __init__(self, queue: SendQueue, grants: dict[str, str], *, seed: int, rate: float) -> None:
        self._queue, self._rate = queue, rate
        self._applications, self._names = grants, sorted(grants)
        self._chance = random.Random(seed)
        self.jobs: dict[str, Sent] = {}
        self.refused = 0  # calls that the ledger could not take at once; repeated until it did
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"load-{n}", daemon=True) for n in range(CALLERS)]

    def start(self) -> None:
        """Start to enqueue."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; sends that were begun are finished."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due += self._chance.expovariate(self._rate / CALLERS)
            self._send(next(self._numbers))

    def _send(self, number: int) -> None:
        grant = self._chance.choice(self._names)
        message = Message(to=["leyah@example.com"], subject=f"Invoice {number}", body="<p>42</p>" * 100)
        options: OptionsGiven = {
            "key": f"invoice-{number}",
            "provider": "google",
            "application": self._applications[grant],
            "on_outcome": HOOK,
        }
        while True:
            try:
                job = self._queue.send(grant, message, **options)
                break
            except (LedgerUnavailable, Retryable):
                self.refused += 1
                time.sleep(AGAIN_S)
        self.jobs[job.id] = Sent(grant, time.time())
