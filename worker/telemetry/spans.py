"""Spans of OpenTelemetry: one for each attempt, with its time in the queue, in the trace of the call that enqueued it.

A span is made from the times in the attempt's row when it is recorded, so that nothing is done while a call is made.
Its attributes have ids, rules and numbers, and nothing of a mail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sendq.clock import SECOND, Micros
from sendq.facts.outcomes import Outcome
from sendq.rules.states import Event
from settings.celery import QUEUE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

# How long the end of a process waits for the last spans to be exported.
FLUSH_MS = 3_000


class Spans:
    """Makes the spans; without a provider none, and nothing of OpenTelemetry is imported."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("sendq")

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """Make a span for each attempt of a committed group."""
        if self._tracer is None:
            return
        for outcome in outcomes:
            if outcome.attempt is not None:
                self._span(outcome)

    def close(self) -> None:
        """Export what is left, for a few seconds at most."""
        if self._provider is not None:
            self._provider.force_flush(FLUSH_MS)
            self._provider.shutdown()

    def _span(self, outcome: Outcome) -> None:
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span

        attempt = outcome.attempt
        assert attempt is not None
        assert self._tracer is not None
        parent = _context_of(outcome.traceparent)
        links = [] if outcome.traceparent is None else [Link(get_current_span(parent).get_span_context())]
        span = self._tracer.start_span(
            f"sendq {outcome.operation}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=_attributes(outcome),
            links=links,
            start_time=_nanos(attempt.begun_at),
        )
        if outcome.event is not Event.ACCEPT:
            span.set_status(Status(StatusCode.ERROR, outcome.rule))
        span.end(_nanos(attempt.ended_at))


def _attributes(outcome: Outcome) -> dict[str, Any]:
    attempt = outcome.attempt
    assert attempt is not None
    attributes: dict[str, Any] = {
        "messaging.system": "sendq",
        "messaging.operation.type": "process",
        "messaging.operation.name": outcome.operation,
        "messaging.destination.name": QUEUE,
        "messaging.message.id": str(outcome.job_id),
        "sendq.queue_time_s": max(0, attempt.begun_at - outcome.wanted_at) / SECOND,
        "sendq.attempts": outcome.attempts,
        "sendq.application": outcome.application,
        "sendq.provider": outcome.provider,
        "sendq.grant": outcome.grant_id,
        "sendq.rule": outcome.rule,
        "sendq.sent": str(attempt.sent),
    }
    if attempt.route is not None:
        attributes["sendq.decision"] = str(attempt.route)
    if attempt.status is not None:
        attributes["http.response.status_code"] = attempt.status
    if attempt.request_id is not None:
        attributes["sendq.request_id"] = attempt.request_id
    if outcome.event is not Event.ACCEPT:
        attributes["error.type"] = outcome.rule
    return attributes


def _context_of(traceparent: str | None) -> Context:
    """The context of the caller's span; an empty one without it: the span begins a trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())


def _nanos(at: Micros) -> int:
    return at * 1_000
