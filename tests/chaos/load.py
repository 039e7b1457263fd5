"""Work for a scenario: sends, batches of modifications and cancellations, in an order determined by a seed.

Enqueued as a careful application does it: everything with a key, and again with the same key until the ledger has
accepted it. Accepted jobs are known by id.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import exc

from sendq import Message, Options, Priority, Send, SendQueue
from sendq.errors import LedgerUnavailable, Retryable

T = TypeVar("T")
TICK_S = 0.1
PRIORITIES = (Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, Priority.LOW)
OBJECTS = 5  # in one batch of modifications
AGAIN_S = 0.2
BACKLOG_LANES = 4


class Load:
    """``rate`` jobs per second, a tenth of them modifications, spread over ``lanes`` grants."""

    def __init__(
        self, queue: SendQueue, *, seed: int, lanes: int = 60, rate: float = 50.0, provider: str = "google"
    ) -> None:
        self._queue, self.lanes, self._provider = queue, lanes, provider
        self._chance = random.Random(seed)
        self._each_tick = rate * TICK_S
        self._due = 0.0
        self._number = 0
        self.sends: list[str] = []
        self.batches: dict[str, bool] = {}  # id → the requested value of "unread"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    @property
    def jobs(self) -> int:
        """The number of jobs accepted so far."""
        return len(self.sends) + OBJECTS * len(self.batches)

    def start(self) -> None:
        """Start enqueueing, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop enqueueing; what was begun is finished, however long the ledger is unavailable."""
        self._ended.set()
        self._thread.join()

    def enqueue_backlog(self, each: int) -> None:
        """A few lanes that do their jobs slowly, one by one, so that some jobs are always waiting."""
        for lane in range(BACKLOG_LANES):
            slow = Options(provider="ews")
            message = Message(to=["leyah@example.com"], subject="Newsletter", body="<p>42</p>")
            sends = [Send(f"slow-{lane}", message, slow)] * each
            self.sends += [job.id for job in self._queue.send_many(sends)]

    def _run(self) -> None:
        while not self._ended.wait(TICK_S):
            self._due += self._each_tick
            self._tick()

    def _tick(self) -> None:
        while self._due >= 1:
            if self._chance.random() < 0.02:
                self._modify()
                self._due -= OBJECTS
            else:
                self._due -= self._send(min(int(self._due), self._chance.randint(1, 10)))
            if self.sends and self._chance.random() < 0.05:
                self._cancel()

    def _send(self, count: int) -> int:
        sends = []
        for _ in range(count):
            self._number += 1
            options = Options(
                key=f"send-{self._number}", priority=self._chance.choice(PRIORITIES), provider=self._provider
            )
            message = Message(to=["leyah@example.com"], subject=f"Invoice {self._number}", body="<p>42</p>")
            sends.append(Send(self._grant(), message, options))
        self.sends += [job.id for job in self._until_said(lambda: self._queue.send_many(sends))]
        return count

    def _modify(self) -> None:
        self._number += 1
        name, grant, unread = f"modify-{self._number}", self._grant(), self._chance.random() < 0.5
        # The same few messages of a grant repeatedly, so that the last change of each must win.
        objects = [f"{grant}-message-{number}" for number in self._chance.sample(range(2 * OBJECTS), OBJECTS)]
        batch = self._until_said(
            lambda: self._queue.modify(grant, objects, unread=unread, key=name, provider=self._provider)
        )
        self.batches[batch.id] = unread

    def _cancel(self) -> None:
        job = self._chance.choice(self.sends[-50:])
        with suppress(LedgerUnavailable, Retryable, exc.SQLAlchemyError):  # then it is not cancelled, which is fine too
            self._queue.cancel(job)

    def _grant(self) -> str:
        return f"grant-{self._chance.randrange(self.lanes)}"

    def _until_said(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except (LedgerUnavailable, Retryable):
                threading.Event().wait(AGAIN_S)
