"""Task events for Flower: each attempt of a job as Celery's task events, with the job's id and its operation as name.

So Flower, like any other listener of Celery's events, lists jobs rather than the bundles that carry them. The keyword
arguments show the grant's id, the result shows the rule that decided (and what became of the mail, if that is known by
then), and the state shows the outcome:

    SUCCESS   the API accepted it        HELD      its grant, provider or application is held
    RETRY     retried after a backoff    REAUTH    its grant's owner must sign in again
    FAILURE   a dead letter              IN_DOUBT  it may have gone out
    REVOKED   cancelled or expired

The worker's heartbeat is sent from here too: Celery's would count bundles, which take milliseconds; this one counts
calls in flight and attempts. Events are sent only if enabled (the worker's ``-E``, or by Flower), and contain only ids,
rules and numbers. They may be lost; the ledger is the truth.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from celery.utils.sysinfo import load_average
from celery.worker.state import SOFTWARE_INFO

from sendq.clock import SECOND
from sendq.facts.outcomes import Outcome
from sendq.rules.states import Event

# At most this many events wait for a broker that is slow or unreachable; further ones are dropped.
BACKLOG = 10_000

# Celery's own interval: listeners consider a worker offline after a few missing heartbeats.
HEARTBEAT_S = 2.0

# Outcomes whose deliveries are looked up at once.
GROUP_MOST = 200

Deliveries = Callable[[Sequence[UUID]], Mapping[UUID, str]]

_ENDED = {
    Event.ACCEPT: "task-succeeded",
    Event.RETURN: "task-retried",
    Event.GIVE_UP: "task-failed",
    Event.DOUBT: "task-in_doubt",
    Event.CANCEL: "task-revoked",
    Event.EXPIRE: "task-revoked",
}


class FlowerEvents:
    """Publishes events in a thread, so that nothing else waits for the broker."""

    def __init__(self, dispatcher: Any, *, in_flight: Callable[[], int], deliveries: Deliveries) -> None:
        """``dispatcher``: Celery's event dispatcher of this worker; ``in_flight``: calls on the wire now.

        ``deliveries``: what is known to have become of mails, by job; it may raise anything.
        """
        self._dispatcher, self._in_flight, self._deliveries = dispatcher, in_flight, deliveries
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue(BACKLOG)
        self._attempts = 0
        self._beat_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="sendq-reporter", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """Publish the events of outcomes, if events are enabled. Never blocks."""
        if not self._dispatcher.wants_tasks:
            return
        for outcome in outcomes:
            if outcome.attempt is not None and not self._outcomes.full():
                self._outcomes.put_nowait(outcome)

    def stop(self, limit_s: float) -> None:
        """Publish what is left, for up to ``limit_s`` seconds, and end the thread."""
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
            group = [outcome, *self._others()]
            ended = [one for one in group if one is not None]
            known = self._known(ended)
            for one in ended:
                self._attempts += 1
                for kind, fields in events_of(one, delivery=known.get(one.job_id)):
                    self._send(kind, fields)
            if len(ended) < len(group):
                return

    def _others(self) -> Iterator[Outcome | None]:
        """What else waits, up to the end."""
        with suppress(queue.Empty):
            for _ in range(GROUP_MOST - 1):
                yield (one := self._outcomes.get_nowait())
                if one is None:
                    return

    def _known(self, ended: Sequence[Outcome]) -> Mapping[UUID, str]:
        accepted = [one.job_id for one in ended if one.event is Event.ACCEPT and one.operation == "send"]
        with suppress(Exception):  # the ledger is unavailable, which others report
            return self._deliveries(accepted) if accepted else {}
        return {}

    def _heartbeat(self) -> dict[str, Any]:
        return {
            "freq": HEARTBEAT_S,
            "active": self._in_flight(),
            "processed": self._attempts,
            "loadavg": load_average(),
            **SOFTWARE_INFO,
        }

    def _send(self, kind: str, fields: Mapping[str, Any]) -> None:
        with suppress(Exception):  # the broker is unreachable, which others report
            self._dispatcher.send(kind, **fields)


def events_of(outcome: Outcome, *, delivery: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """The events of one attempt: received, started, and how it ended. ``delivery``: what became of its mail."""
    attempt = outcome.attempt
    assert attempt is not None
    begun = attempt.begun_at / SECOND
    ended = attempt.ended_at / SECOND
    uuid = str(outcome.job_id)
    result = outcome.rule if attempt.status is None else f"{outcome.rule} ({attempt.status})"
    result = result if delivery is None else f"{result}, {delivery}"
    received = {
        "uuid": uuid, "name": f"sendq.{outcome.operation}", "args": "()",
        "kwargs": str({"grant": outcome.grant_id}), "retries": outcome.attempts, "eta": None, "expires": None,
        "timestamp": begun,
    }  # fmt: skip
    started = {"uuid": uuid, "timestamp": begun}
    ended_event = {
        "uuid": uuid, "timestamp": ended, "runtime": ended - begun, "result": result, "traceback": None,
        "exception": None if outcome.event is Event.ACCEPT else result,
    }  # fmt: skip
    return [("task-received", received), ("task-started", started), (_kind(outcome), ended_event)]


def _kind(outcome: Outcome) -> str:
    """The event for the outcome. Kinds that Celery does not know are shown as custom states."""
    if outcome.event is Event.RETURN and outcome.hold is not None:
        return "task-reauth" if outcome.hold.until is None else "task-held"
    return _ENDED[outcome.event]
