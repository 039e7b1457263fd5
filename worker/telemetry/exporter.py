"""Serve the worker's Prometheus metrics: its counters, its current state and, on the leader, the ledger's.

Only the leader queries the ledger, so that a sum over workers counts nothing twice, and at most every `LEDGER_EVERY_S`,
however often it is scraped. While the ledger is unavailable, only its own metrics are missing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine as Ledger
from sqlalchemy import exc

import sendq
from sendq.clock import Clock
from sendq.errors import Problem, SendqError
from sendq.ledger.db.engine import reading
from sendq.ledger.reading.gauges import LANE_STATES, Levels, levels
from sendq.views import HeldGroup
from settings import SettingsError
from settings.values import split_address
from worker.leading.leadership import Leads
from worker.serving.engine import Engine
from worker.telemetry import journal, metrics
from worker.telemetry.metrics import REGISTRY

LEDGER_EVERY_S = 15.0

APPROXIMATE = "exact up to 10,000, above that PostgreSQL's estimate (SQLite: a lower bound)"


class Exporter:
    """An HTTP server, in its own threads, for the metrics of one process."""

    def __init__(self, address: str, engine: Engine, leadership: Leads, ledger: Ledger) -> None:
        self._address = address
        self._collectors = [_Now(engine, leadership), _Ledger(ledger, leadership, engine.now)]

    def start(self) -> None:
        """Listen; raises `SettingsError` if that is not possible on the address."""
        host, port = split_address(self._address)
        try:
            self._server, self._thread = start_http_server(port, host, REGISTRY)
        except OSError as error:
            remedy = "use a different port for each worker of a machine, or port 0 for any free one (it is logged)"
            reason = f"cannot be listened on ({error.strerror})"
            raise SettingsError([Problem("SENDQ_METRICS_ADDRESS", reason, remedy)]) from None
        for collector in self._collectors:
            REGISTRY.register(collector)
        journal.metrics_started(host, self._server.server_port)

    def stop(self) -> None:
        """Stop listening."""
        for collector in self._collectors:
            REGISTRY.unregister(collector)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Now(Collector):
    """The current state of the process."""

    def __init__(self, engine: Engine, leadership: Leads) -> None:
        self._engine, self._leadership = engine, leadership

    def describe(self) -> list[Metric]:
        return []  # otherwise registering would collect already

    def collect(self) -> Iterator[Metric]:
        engine, lease = self._engine, self._engine.heartbeat.lease
        info = GaugeMetricFamily("sendq_worker_info", "Always 1; the label has the version", labels=["version"])
        info.add_metric([sendq.__version__], 1)
        yield info
        for name, meaning, value in (
            ("leader", "1 if this process is the leader, otherwise 0", self._leadership.leads),
            ("calls_in_flight", "Calls to the API in flight", engine.calls),
            ("slow_calls", "Calls in flight that are slow and have given up their slot", engine.slots.slow),
            ("slots", "Call slots of this process (SENDQ_CONCURRENCY)", engine.slots.capacity),
            ("slots_used", "Call slots in use by turns", engine.slots.used),
            ("outcomes_unrecorded", "Outcomes in memory that are not yet committed", engine.unrecorded),
            (
                "dispatch_age_seconds",
                "Since the last dispatch round, or since this process became the leader; 0 if it is not",
                metrics.dispatch_age() if self._leadership.leads else 0.0,
            ),
            ("heartbeat_age_seconds", "Since this worker's last heartbeat; +Inf: declared dead", lease.age()),
        ):
            yield GaugeMetricFamily(f"sendq_{name}", meaning, value=float(value))


class _Ledger(Collector):
    """The state of the ledger, from the leader."""

    def __init__(self, ledger: Ledger, leadership: Leads, now: Clock) -> None:
        self._ledger, self._leadership, self._now = ledger, leadership, now
        self._asking = threading.Lock()
        self._asked_at = float("-inf")
        self._known: Levels | None = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        if not self._leadership.leads:
            return
        if self._asking.acquire(blocking=False):  # a scrape during another one's query gets the last result
            try:
                if time.monotonic() - self._asked_at >= LEDGER_EVERY_S:
                    self._known = self._ask()
                    self._asked_at = time.monotonic()
            finally:
                self._asking.release()
        known = self._known
        yield GaugeMetricFamily(
            "sendq_ledger_up", "1 if the ledger answered, otherwise 0", value=float(known is not None)
        )
        if known is not None:
            yield from families(known)

    def _ask(self) -> Levels | None:
        try:
            with reading(self._ledger) as connection:
                return levels(connection, now=self._now())
        except (SendqError, exc.SQLAlchemyError):
            return None


def families(known: Levels) -> Iterator[Metric]:
    """The ledger's levels as Prometheus metrics."""
    lanes: Counter[str] = Counter(dict.fromkeys(LANE_STATES, 0))
    for (state, _), number in known.lanes.items():
        lanes[state] += number
    held = {("grant", rule): number for (state, rule), number in known.lanes.items() if state == "held"}
    closed = {rule: number for (state, rule), number in known.lanes.items() if state == "closed"}
    yield _by("jobs", f"Queued and sending jobs; {APPROXIMATE}", "state", known.jobs)
    yield _by("jobs_in_doubt", "Jobs that may have gone out (in doubt); counted up to 10,000", "rule", known.in_doubt)
    yield _by("dead_letters", "Dead letters; counted up to 10,000", "rule", known.dead)
    yield _by("lanes", "Lanes by state", "state", lanes)
    yield _by("lanes_closed", "Lanes closed until the owner signs in again, by rule", "rule", closed)
    yield _by("holds", "Current holds, by scope and rule", "scope rule", held | {**known.holds})
    yield from _held(known.held)
    soon = "Jobs that wait and expire within 6 h; rule: what holds or closed them, else empty; counted up to 10,000"
    yield _by("jobs_expiring", soon, "application provider rule", known.expiring)
    lately = "Jobs that expired within the last hour, before they were sent; counted up to 10,000"
    yield _by("jobs_expired", lately, "application provider", known.expired)
    unapproved = {name: number for name, (number, _) in known.unapproved.items()}
    yield _by("jobs_unapproved", "Jobs that wait for approval; counted up to 10,000", "application", unapproved)
    late = {name: soon for name, (_, soon) in known.unapproved.items()}
    yield _by("jobs_unapproved_expiring", "Those of them that are given up within 6 h", "application", late)
    yield _by("turns", "Open turns, by state", "state", known.turns)
    oldest = "Age of the oldest eligible job that is not held, by priority"
    yield _by("oldest_job_seconds", oldest, "priority", known.oldest_s)
    undelivered = {"waiting": known.deliveries.waiting, "given_up": known.deliveries.given_up}
    yield _by("deliveries", "Outcomes not yet delivered, by state; counted up to 10,000", "state", undelivered)
    yield from _notices(known)
    yield _suppressed(known)
    yield from _budgets(known)
    for name, meaning, value in (
        ("oldest_delivery_seconds", "Age of the oldest undelivered outcome", known.deliveries.oldest_s),
        (
            "receivers_failing",
            "Receivers whose last delivery failed while outcomes wait for them",
            len(known.deliveries.failing),
        ),
        ("turn_wait_seconds", "Longest time a lane has been waiting for a turn that is due", known.turn_wait_s),
        ("workers", "Registered workers", known.workers),
        ("capacity", "Call slots of all workers together", known.capacity),
        ("worker_silence_seconds", "Longest time since the last heartbeat of a registered worker", known.silence_s),
    ):
        yield GaugeMetricFamily(f"sendq_{name}", meaning, value=float(value))


def _held(groups: Sequence[HeldGroup]) -> Iterator[Metric]:
    """What is held or closed: grants, jobs behind it, and how long the oldest of these has been due."""
    labels = "scope state application provider rule"
    grants: dict[tuple[str, ...], float] = {}
    jobs: dict[tuple[str, ...], float] = {}
    oldest: dict[tuple[str, ...], float] = {}
    now = datetime.now(UTC)
    for one in groups:
        names = (one.scope, str(one.state), one.application, one.provider or "", one.rule or "")
        grants[names], jobs[names] = one.grants, one.waiting
        oldest[names] = 0.0 if one.oldest is None else max(0.0, (now - one.oldest).total_seconds())
    yield _by("held_grants", "Grants that are held or closed; counted up to 20,000", labels, grants)
    yield _by("held_jobs", "Jobs that wait behind holds and closed lanes; counted up to 200,000", labels, jobs)
    yield _by("held_oldest_seconds", "For how long the oldest due job behind them has been due", labels, oldest)


def _notices(known: Levels) -> Iterator[Metric]:
    labels = ["application", "provider", "kind", "result"]
    meaning = "Notifications of Nylas about mail; result: applied, unmatched (not of this ledger), repeated, …"
    number = CounterMetricFamily("sendq_mail_notices", meaning, labels=labels)
    meaning = "Sum of the seconds from the acceptance of a mail to what was reported of it"
    seconds = CounterMetricFamily("sendq_mail_report_seconds", meaning, labels=labels)
    for names, (count, waited) in known.notices.items():
        number.add_metric(list(names), count)
        seconds.add_metric(list(names), waited)
    return iter((number, seconds))


def _suppressed(known: Levels) -> Metric:
    meaning = "Entries of suppression lists; counted up to 100,000"
    return _by("suppressed_recipients", meaning, "application reason", known.suppressed)


def _budgets(known: Levels) -> Iterator[Metric]:
    names = {one: (one.application, one.tag or "", one.per) for one in known.budgets}
    used = "Sends that began in the current window of a budget; tag: empty for that of the whole application"
    yield _by("budget_used", used, "application tag per", {name: one.used for one, name in names.items()})
    most = "How many may begin in a window, of the budgets of which some is used"
    yield _by("budget_limit", most, "application tag per", {name: one.most for one, name in names.items()})
    over = "1 if sends had to wait for the next window, otherwise 0"
    yield _by("budget_over", over, "application tag per", {name: int(one.over) for one, name in names.items()})


def _by(name: str, meaning: str, labels: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"sendq_{name}", meaning, labels=labels.split())
    for names, value in values.items():
        family.add_metric([names] if isinstance(names, str) else list(names), value)
    return family
