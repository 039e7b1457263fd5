"""The worker's numbers for Prometheus, over HTTP: what it has counted, what it does now, and, if it leads, the ledger.

Only the worker that leads asks the ledger, so that a sum over workers counts nothing twice, and at most every
`LEDGER_EVERY_S`, however often somebody scrapes. A ledger that is away takes its own numbers with it and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import exc

import sendq
from sendq.errors import Problem, SendqError
from sendq.ledger.db.engine import reading
from sendq.ledger.reading.gauges import LANE_STATES, Levels, levels
from settings import SettingsError
from settings.values import split_address
from worker.telemetry import journal
from worker.telemetry.metrics import REGISTRY

if TYPE_CHECKING:
    from worker.process import Process

LEDGER_EVERY_S = 15.0

APPROXIMATE = "exact up to 10,000, then PostgreSQL's estimate (SQLite: at least so many)"


class Exporter:
    """An HTTP server in threads of its own, and what it says of one process."""

    def __init__(self, address: str, process: Process) -> None:
        self._address = address
        self._collectors = [_Now(process), _Ledger(process)]

    def start(self) -> None:
        """Listen; raises `SettingsError` if the address cannot be had."""
        host, port = split_address(self._address)
        try:
            self._server, self._thread = start_http_server(port, host, REGISTRY)
        except OSError as error:
            remedy = "give each worker of a machine its own port, or port 0 for any (the log says which)"
            reason = f"cannot be listened on ({error.strerror})"
            raise SettingsError([Problem("SENDQ_METRICS_ADDRESS", reason, remedy)]) from None
        for collector in self._collectors:
            REGISTRY.register(collector)
        journal.metrics_started(host, self._server.server_port)

    def stop(self) -> None:
        """Listen no more."""
        for collector in self._collectors:
            REGISTRY.unregister(collector)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Now(Collector):
    """What the process does at this moment."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def describe(self) -> list[Metric]:
        return []  # or registering would ask for the numbers already

    def collect(self) -> Iterator[Metric]:
        engine, dispatcher = self._process.engine, self._process.dispatcher
        info = GaugeMetricFamily("sendq_worker_info", "1; the version is in the label", labels=["version"])
        info.add_metric([sendq.__version__], 1)
        yield info
        for name, meaning, value in (
            ("leader", "1 if this process dispatches, else 0", dispatcher.leads),
            ("calls_in_flight", "Calls on the wire", engine.calls),
            ("slow_calls", "Calls on the wire that have given their slot away", engine.slots.slow),
            ("slots", "Calls that this process takes on at once (SENDQ_CONCURRENCY)", engine.slots.capacity),
            ("slots_used", "Slots that turns hold", engine.slots.used),
            ("outcomes_unrecorded", "Outcomes that wait for the ledger", engine.unrecorded),
            ("beat_age_seconds", "Since the last beat that the ledger took; +Inf: taken for dead", engine.lease.age()),
        ):
            yield GaugeMetricFamily(f"sendq_{name}", meaning, value=float(value))


class _Ledger(Collector):
    """What is in the ledger, from the process that leads."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asking = threading.Lock()
        self._asked_at = float("-inf")
        self._known: Levels | None = None

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        if not self._process.dispatcher.leads:
            return
        if self._asking.acquire(blocking=False):  # who comes while somebody asks gets what is known
            try:
                if time.monotonic() - self._asked_at >= LEDGER_EVERY_S:
                    self._known = self._ask()
                    self._asked_at = time.monotonic()
            finally:
                self._asking.release()
        known = self._known
        yield GaugeMetricFamily("sendq_ledger_up", "1 if the ledger answered", value=float(known is not None))
        if known is not None:
            yield from families(known)

    def _ask(self) -> Levels | None:
        try:
            with reading(self._process.ledger) as connection:
                return levels(connection, now=self._process.engine.now())
        except (SendqError, exc.SQLAlchemyError):
            return None


def families(known: Levels) -> Iterator[Metric]:
    """The ledger's levels in Prometheus's words."""
    lanes: Counter[str] = Counter(dict.fromkeys(LANE_STATES, 0))
    for (state, _), number in known.lanes.items():
        lanes[state] += number
    held = {("grant", rule): number for (state, rule), number in known.lanes.items() if state == "held"}
    closed = {rule: number for (state, rule), number in known.lanes.items() if state == "closed"}
    yield _by("jobs", f"Jobs that are queued or sending; {APPROXIMATE}", "state", known.jobs)
    yield _by("jobs_in_doubt", "Jobs of which nobody knows whether they went out; up to 10,000", "rule", known.in_doubt)
    yield _by("dead_letters", "Dead letters that wait for a person; up to 10,000", "rule", known.dead)
    yield _by("lanes", "Lanes by state", "state", lanes)
    yield _by("lanes_closed", "Lanes whose owners have to sign in again", "rule", closed)
    yield _by("holds", "What is held now, by scope and by the rule that did it", "scope rule", held | {**known.holds})
    yield _by("turns", "Open turns", "state", known.turns)
    oldest = "How long ago the oldest job that nothing holds could have begun"
    yield _by("oldest_job_seconds", oldest, "priority", known.oldest_s)
    told = {"waiting": known.deliveries.waiting, "given_up": known.deliveries.given_up}
    yield _by("deliveries", "Outcomes that nobody was told of yet, by state; up to 10,000", "state", told)
    for name, meaning, value in (
        ("oldest_delivery_seconds", "Since the first outcome that waits to be told", known.deliveries.oldest_s),
        ("receivers_failing", "Receivers that failed last while outcomes wait for them", len(known.deliveries.failing)),
        ("turn_wait_seconds", "How long the lane that has waited longest has been due for a turn", known.turn_wait_s),
        ("workers", "Workers that the ledger knows", known.workers),
        ("capacity", "Calls at once of all workers together", known.capacity),
        ("worker_silence_seconds", "The longest time since a worker's beat", known.silence_s),
    ):
        yield GaugeMetricFamily(f"sendq_{name}", meaning, value=float(value))


def _by(name: str, meaning: str, labels: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"sendq_{name}", meaning, labels=labels.split())
    for names, value in values.items():
        family.add_metric([names] if isinstance(names, str) else list(names), value)
    return family
