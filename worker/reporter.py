"""Flower's view: each attempt of a job as a Celery task event, under the job's id and its operation's name.

Flower and every other listener of Celery's events then list jobs, not the bundles that carry them, with the rule that
decided as the words. Nothing is sent unless the worker runs with ``-E`` (or Flower asked for events), and nothing but
ids, rules and numbers is in them. Events may be lost; the ledger is the truth.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sendq.clock import SECOND
from sendq.ledger.record import Outcome
from sendq.states import Event

# More events than this wait for a broker that is slow or away; what comes on top is dropped.
BACKLOG = 10_000

_ENDED = {
    Event.ACCEPT: "task-succeeded",
    Event.RETURN: "task-retried",
    Event.GIVE_UP: "task-failed",
    Event.DOUBT: "task-failed",
}


class Reporter:
    """A thread that speaks to the broker, so that nobody else waits for it."""

    def __init__(self, dispatcher: Any) -> None:
        """``dispatcher``: Celery's event dispatcher of this worker."""
        self._dispatcher = dispatcher
        self._outcomes: queue.Queue[Outcome | None] = queue.Queue(BACKLOG)
        self._thread = threading.Thread(target=self._run, name="sendq-reporter", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Report outcomes, if anybody listens. Never blocks."""
        if not self._dispatcher.enabled:
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
        while (outcome := self._outcomes.get()) is not None:
            try:
                for kind, fields in events_of(outcome):
                    self._dispatcher.send(kind, **fields)
            except Exception:  # noqa: S112  # the broker is away: a view is not worth a word for each event
                continue


def events_of(outcome: Outcome) -> list[tuple[str, Mapping[str, Any]]]:
    """The events of one attempt: received and begun at its beginning, and how it ended."""
    attempt = outcome.attempt
    assert attempt is not None
    begun = attempt["begun_at"] / SECOND
    ended = attempt["ended_at"] / SECOND
    uuid = str(outcome.job_id)
    kind = _ENDED.get(outcome.event, "task-failed")
    if outcome.hold is not None:
        kind = "task-parked" if outcome.hold.until is None else "task-held"
    words = outcome.rule if attempt["status"] is None else f"{outcome.rule} ({attempt['status']})"
    name = f"sendq.{outcome.operation}"
    said: dict[str, Any] = {"uuid": uuid, "timestamp": ended}
    if kind == "task-succeeded":
        said |= {"result": words, "runtime": ended - begun}
    else:
        said |= {"exception": words, "traceback": None, "runtime": ended - begun}
    return [
        (
            "task-received",
            {"uuid": uuid, "name": name, "args": "()", "kwargs": "{}", "retries": attempt["generation"],
             "eta": None, "expires": None, "timestamp": begun},
        ),
        ("task-started", {"uuid": uuid, "timestamp": begun}),
        (kind, said),
    ]  # fmt: skip
