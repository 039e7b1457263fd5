"""Traces for Sentry: queue time and call time of a share of all attempts.

A trace is made from the times in the attempt's row when it is recorded; nothing else is measured. For Sentry's "Queues"
view it is one transaction ``queue.process``, whose message latency is the queue time, with one span ``http.client``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from sendq import clock
from sendq.clock import SECOND, Micros, moment
from sendq.facts.outcomes import Outcome
from sendq.rules.states import Event
from settings.celery import QUEUE
from settings.sentry import active_sentry

METHODS = {"send": "POST", "modify": "PUT", "delete": "DELETE", "list": "GET", "read": "GET", "restore": "PUT"}


class Traces:
    """Makes a trace for the given share of attempts (0 to 1)."""

    def __init__(
        self, share: float, *, chance: Callable[[], float] = random.random, now: clock.Clock = clock.now
    ) -> None:
        self._share, self._chance, self._now = share, chance, now

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """Trace a random share of a committed group."""
        sentry = active_sentry() if self._share else None
        if sentry is None:
            return
        for outcome in outcomes:
            if outcome.attempt is not None and self._chance() < self._share:
                _trace(sentry, outcome, recorded_at=self._now())


def _trace(sentry: Any, outcome: Outcome, *, recorded_at: Micros) -> None:
    attempt = outcome.attempt
    assert attempt is not None
    begun_at, ended_at = attempt.begun_at, attempt.ended_at
    transaction = sentry.start_transaction(
        op="queue.process",
        name=f"sendq.{outcome.operation}",
        source=sentry.tracing.TransactionSource.TASK,
        origin="manual.sendq",
        start_timestamp=begun_at / SECOND,
        sampled=True,
    )
    _set(
        transaction,
        {
            "messaging.system": "sendq",
            "messaging.destination.name": QUEUE,
            "messaging.message.id": str(outcome.job_id),
            "messaging.message.receive.latency": max(0, begun_at - outcome.wanted_at) / 1_000,  # ms
            "messaging.message.retry.count": outcome.attempts,
            "sendq.grant": outcome.grant_id,
            "sendq.rule": outcome.rule,
            "sendq.provider": outcome.provider,
        },
    )
    transaction.set_tag("sendq.rule", outcome.rule)
    transaction.set_status("ok" if outcome.event is Event.ACCEPT else "internal_error")
    call = transaction.start_child(
        op="http.client", name=METHODS.get(outcome.operation, "CALL"), start_timestamp=begun_at / SECOND
    )
    if attempt.status is not None:
        call.set_http_status(attempt.status)
    call.finish(end_timestamp=moment(ended_at))
    transaction.finish(end_timestamp=moment(max(ended_at, recorded_at)))


def _set(span: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        span.set_data(name, value)
