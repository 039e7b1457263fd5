"""Flower's view: each attempt of a job as Celery's task events, under the job's id and its operation's name.

Flower and every other listener of Celery's events then list jobs, not the bundles that carry them: as keyword arguments
the grant's id, as the result the rule that decided, and a state that says what came of it.

    SUCCESS   the API accepted it             HELD      its grant, provider or application is left alone for a while
    RETRY     it goes again after a backoff   PARKED    its grant's owner has to sign in again
    FAILURE   a dead letter                   IN_DOUBT  nobody knows whether it went out
    REVOKED   cancelled, or its time is over

The worker's own heartbeat comes from here too: Celery's counts bundles, which are over in milliseconds; this one counts
calls in flight and attempts. Nothing is sent unless somebody listens (the worker's ``-E``, or Flower asked for it), and
nothing but ids, rules and numbers is in it. Events may be lost; the ledger is the truth.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery.utils.sysinfo import load_average
from celery.worker.state import SOFTWARE_INFO

from sendq.clock import SECOND
from sendq.facts.outcomes import Outcome
from sendq.rules.states import Event

# More events than this wait for a broker that is slow or away; what comes on top is dropped.
BACKLOG = 10_000

# Celery's own interval: listeners take a worker for offline when a few of these are missing.
HEARTBEAT_S = 2.0

_ENDED = {
    Event.ACCEPT: "task-succeeded",
    Event.RETURN: "task-retried",
    Event.GIVE_UP: "task-failed",
    Event.DOUBT: "task-in_doubt",
    Event.CANCEL: "task-revoked",
    Event.EXPIRE: "task-revoked",
}


class FlowerEvents:
    """A thread that speaks to the broker, so that nobody else waits for it."""

    def __init__(self, dispatcher: Any, *, in_flight: Callable[[], int]) -> None:
        """``dispatcher``: Celery's event dispatcher of this worker; ``in_flight``: calls on the wire now."""
        self._dispatcher, self._in_flight = dispatcher, in_flight
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue(BACKLOG)
        self._attempts = 0
        self._beat_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="sendq-reporter", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """Report outcomes, if anybody listens. Never blocks."""
        if not self._dispatcher.wants_tasks:
            return
        for outcome in outcomes:
            if outcome.attempt is not None and not self._outcomes.full():
                self._outcomes.put_nowait(outcome)

    def stop(self, limit_s: float) -> None:
        """Report what is left, within the limit."""
        if not self._outcomes.full():
            self._outcomes.put_nowait(None)
        self._thread.join(limit_s)

    def _run(self) -> None:
        while True:
            try:
                outcome = self._outcomes.get(timeout=max(0.0, self._beat_at + HEARTBEAT_S - time.monotonic()))
            except queue.Empty:
                self._send("worker-heartbeat", self._heartbeat())
                self._beat_at = time.monotonic()
                continue
            if outcome is None:
                return
            self._attempts += 1
            for kind, fields in events_of(outcome):
                self._send(kind, fields)

    def _heartbeat(self) -> dict[str, Any]:
        return {
            "freq": HEARTBEAT_S,
            "active": self._in_flight(),
            "processed": self._attempts,
            "loadavg": load_average(),
            **SOFTWARE_INFO,
        }

    def _send(self, kind: str, fields: Mapping[str, Any]) -> None:
        with suppress(Exception):  # the broker is away: a view is not worth a word for each event
            self._dispatcher.send(kind, **fields)


def events_of(outcome: Outcome) -> list[tuple[str, Mapping[str, Any]]]:
    """The events of one attempt: received and begun at its beginning, and how it ended."""
    attempt = outcome.attempt
    assert attempt is not None
    begun = attempt.begun_at / SECOND
    ended = attempt.ended_at / SECOND
    uuid = str(outcome.job_id)
    words = outcome.rule if attempt.status is None else f"{outcome.rule} ({attempt.status})"
    received = {
        "uuid": uuid, "name": f"sendq.{outcome.operation}", "args": "()",
        "kwargs": str({"grant": outcome.grant_id}), "retries": outcome.attempts, "eta": None, "expires": None,
        "timestamp": begun,
    }  # fmt: skip
    said = {
        "uuid": uuid, "timestamp": ended, "runtime": ended - begun, "result": words, "traceback": None,
        "exception": None if outcome.event is Event.ACCEPT else words,
    }  # fmt: skip
    return [("task-received", received), ("task-started", {"uuid": uuid, "timestamp": begun}), (_kind(outcome), said)]


def _kind(outcome: Outcome) -> str:
    """How listeners call what came of it. Kinds that Celery does not know show as states of their own."""
    if outcome.event is Event.RETURN and outcome.hold is not None:
        return "task-parked" if outcome.hold.until is None else "task-held"
    return _ENDED[outcome.event]
