"""Prometheus counters and histograms of this process: one function for each event that is counted.

Labels are few and bounded: applications and providers, operations, rules of the policy, routes, status classes, and
values of the tags that a setting names; never a grant, a job or another text from outside. Counting an attempt takes
about 3 µs (`./dev bench telemetry`). Gauges (calls in flight, lanes held) are collected on each scrape
(`worker.telemetry.exporter`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from sendq.clock import SECOND
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Unopened
from sendq.rules.rule_ids import INTEGRITY, NO_KEY, NOT_ENCRYPTED
from sendq.rules.states import Event
from sendq.rules.tags import read_tags

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, of no use here
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

# A call usually takes tenths of a second, minutes on a self-hosted Exchange, and never more than the read timeout.
CALL_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 150)
# From "immediately" to a lane that was closed over the weekend.
QUEUE_BUCKETS_S = (0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 72 * 3600)
COMMIT_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
COMMIT_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

_calls = Counter(
    "sendq_calls",
    "Calls to the API whose outcome is recorded; status: 2xx, 4xx, …, or none; route: done, or that of the rule",
    ["application", "provider", "operation", "status", "rule", "route"],
    registry=REGISTRY,
)
_ended = Counter(
    "sendq_jobs_ended",
    "Jobs that this worker ended, by final state; in_doubt: handed to reconciliation",
    ["application", "operation", "state", "rule"],
    registry=REGISTRY,
)
_tagged = Counter(
    "sendq_tagged_jobs_ended",
    "Jobs that this worker ended, by a tag whose key SENDQ_METRICS_TAGS names",
    ["application", "key", "value", "state"],
    registry=REGISTRY,
)
_call_seconds = Histogram(
    "sendq_call_seconds", "Duration of calls to the API", ["operation"], buckets=CALL_BUCKETS_S, registry=REGISTRY
)
_queue_seconds = Histogram(
    "sendq_queue_seconds",
    "Queue time: from eligible to its HTTP call (pacing, holds, closed lanes, no free slot)",
    ["operation"],
    buckets=QUEUE_BUCKETS_S,
    registry=REGISTRY,
)
_commit_seconds = Histogram(
    "sendq_commit_seconds", "Time to commit a group of outcomes", buckets=COMMIT_BUCKETS_S, registry=REGISTRY
)
_commit_outcomes = Histogram("sendq_commit_outcomes", "Outcomes per commit", buckets=COMMIT_BUCKETS, registry=REGISTRY)
_commit_failures = Counter(
    "sendq_commit_failures", "Commits of outcomes that failed and are retried", registry=REGISTRY
)
_unopened = Counter(
    "sendq_jobs_not_opened",
    "Jobs that did not go out because of their encryption; integrity_check_failed: the ledger was altered",
    ["rule"],
    registry=REGISTRY,
)
_rounds = Counter("sendq_dispatch_rounds", "Dispatch rounds while this process was the leader", registry=REGISTRY)
_turns = Counter("sendq_turns_offered", "Turns offered to lanes", registry=REGISTRY)
_publish_failures = Counter(
    "sendq_publish_failures", "Dispatch rounds whose turns could not be published", registry=REGISTRY
)

_STATES = {
    Event.ACCEPT: "sent",
    Event.GIVE_UP: "dead",
    Event.CANCEL: "cancelled",
    Event.EXPIRE: "expired",
    Event.DOUBT: "in_doubt",
}


# Values of one key that are counted apart: a mistaken key, such as an order's number, does not fill Prometheus.
VALUES_MOST = 100
OTHER = "other"

_tag_values: dict[str, set[str]] = {}  # by the keys that are counted


def count_tags(keys: Sequence[str]) -> None:
    """Count the jobs that end by the values of tags with these keys from now on."""
    _tag_values.clear()
    _tag_values.update((key, set()) for key in keys)


def recorded(outcomes: Sequence[Outcome]) -> None:
    """Outcomes were committed."""
    for outcome in outcomes:
        _count(outcome)


def committed(outcomes: int, seconds: float) -> None:
    """A group of outcomes was committed."""
    _commit_seconds.observe(seconds)
    _commit_outcomes.observe(outcomes)


def commit_failed() -> None:
    """The commit of a group failed and will be retried."""
    _commit_failures.inc()


_last_round: float | None = None  # on the monotonic clock


def leads() -> None:
    """This process became the leader."""
    global _last_round
    _last_round = time.monotonic()


def dispatch_age() -> float:
    """Seconds since the last dispatch round of this process, or since it became the leader."""
    return 0.0 if _last_round is None else time.monotonic() - _last_round


def dispatched(turns: int) -> None:
    """A dispatch round offered this many turns."""
    leads()
    _rounds.inc()
    _turns.inc(turns)


def publish_failed() -> None:
    """The turns of a dispatch round could not be published."""
    _publish_failures.inc()


def unopened(found: Unopened) -> None:
    """A claim did not begin these because of their encryption; an altered lane counts once."""
    for rule, jobs in (
        (NO_KEY, found.missing.total()),
        (NOT_ENCRYPTED, found.unencrypted),
        (INTEGRITY, len(found.altered) + len(found.altered_lanes)),
    ):
        _unopened.labels(rule).inc(jobs)


def ended(outcome: Outcome) -> None:
    """Count a job that ended or went in doubt; other outcomes are ignored."""
    state = _STATES.get(outcome.event)
    if state is not None:
        _ended_of(outcome.application, outcome.operation, state, outcome.rule).inc()
        if outcome.tags is not None and _tag_values:
            _count_tags(outcome.application, outcome.tags, state)


def _count_tags(application: str, tags: str, state: str) -> None:
    for key, value in read_tags(tags).items():
        seen = _tag_values.get(key)
        if seen is None:
            continue
        if value not in seen:
            if len(seen) >= VALUES_MOST:
                value = OTHER
            else:
                seen.add(value)
        _tagged.labels(application, key, value, state).inc()


def _count(outcome: Outcome) -> None:
    ended(outcome)
    attempt = outcome.attempt
    if attempt is None:
        return
    if outcome.rule == INTEGRITY:  # a file, which is opened while it is sent
        _unopened.labels(INTEGRITY).inc()
    status, route = attempt.status, attempt.route
    _calls_of(
        outcome.application,
        outcome.provider,
        outcome.operation,
        "none" if status is None else f"{status // 100}xx",
        outcome.rule,
        "done" if route is None else str(route),
    ).inc()
    calls, queue = _seconds_of(outcome.operation)
    calls.observe((attempt.ended_at - attempt.begun_at) / SECOND)
    queue.observe(max(0, attempt.begun_at - outcome.wanted_at) / SECOND)


# Looking up the series by its labels costs more than counting.


@cache
def _calls_of(*labels: str) -> Counter:
    return _calls.labels(*labels)


@cache
def _ended_of(*labels: str) -> Counter:
    return _ended.labels(*labels)


@cache
def _seconds_of(operation: str) -> tuple[Histogram, Histogram]:
    return _call_seconds.labels(operation), _queue_seconds.labels(operation)
