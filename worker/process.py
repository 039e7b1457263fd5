"""One worker process: its services (`worker.processes.services`), and the callbacks that connect them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Engine as Ledger

from sendq.facts.outcomes import Outcome, Scope
from sendq.facts.turns import Recorded, Turn, Unopened
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_busy_engine, open_engine, reading
from sendq.ledger.delivery_status import read_statuses
from settings import Settings
from settings.values import IN_MEMORY
from tasks.policy.row import Policy
from worker.bundles import BUNDLE, from_message
from worker.clocks.ledger_clock import LedgerClock
from worker.configured_policy import policy_of
from worker.leading.batches import Batches
from worker.leading.bounce_holds import BounceHolds
from worker.leading.budgets import BudgetWatch
from worker.leading.clock_repair import ClockRepair
from worker.leading.dispatcher import Dispatcher, Publish
from worker.leading.followers import Followers
from worker.leading.grant_checker import GrantChecker
from worker.leading.leadership import Leadership, Witness
from worker.leading.mail_reports import MailReports
from worker.leading.pruner import Pruner
from worker.leading.reconciler import Reconciler
from worker.leading.renewal_file import RenewalFile
from worker.leading.renewal_witness import RenewalWitness
from worker.leading.rescuer import LATER_S, Rescuer
from worker.leading.rounds import none_at_once
from worker.leading.send_events import Absent, SendEvents
from worker.leading.wakeup import PostgresWakeup, SqliteWakeup, Wakeup
from worker.leading.work_poll import WorkPoll
from worker.notifying.deliverer import Deliverer
from worker.processes.heartbeat_file import HeartbeatFile, run_directory
from worker.processes.services import Service, Services, loop, resource
from worker.serving.engine import Engine
from worker.serving.enqueue_task import EnqueueTask
from worker.serving.intake import CLAIMERS
from worker.serving.uploads import READERS
from worker.telemetry import journal, metrics
from worker.telemetry.alerts import Alerts
from worker.telemetry.exporter import Exporter
from worker.telemetry.flower_events import FlowerEvents
from worker.telemetry.spans import Spans
from worker.telemetry.traces import Traces

# Connections of one process for what runs all the time, besides one per Celery thread: recorder, heartbeat, dispatcher,
# the poll for the leader's loops; the claimers of the intake; and the readers of files.
BUSY_CONNECTIONS = 4 + CLAIMERS + READERS
# For all else: leadership, rescuer, batches, grant checker, reconciler, pruner, deliverer.
OTHER_CONNECTIONS = 7


class Process:
    """The part of a worker process that belongs to sendq. Create it after any fork, in the process that runs it."""

    def __init__(
        self,
        settings: Settings,
        publish: Publish,
        events: Any,
        *,
        consumes: Callable[[], bool],
        spans: Spans | None = None,
    ) -> None:
        """``consumes``: returns whether this process is reading from the broker. ``spans``: None makes none."""
        settings.vault  # noqa: B018  # raises for keys that cannot be read
        self._settings, self._consumes = settings, consumes
        policy = policy_of(settings)
        self.now = LedgerClock()
        self.ledger, self.busy_ledger = open_ledgers(settings)
        broker_url = settings.broker_url.get_secret_value()
        self._redis_witness = None if broker_url == IN_MEMORY else RenewalWitness(broker_url)
        self._witnesses = witnesses_of(self.ledger, self._redis_witness)
        self.enqueue_task = EnqueueTask(settings, self.ledger)
        metrics.count_tags(settings.metrics_tags)
        self.alerts, self.traces = Alerts(policy), Traces(settings.sentry_traces_sample_rate)
        self.spans = spans or Spans(None)
        self.engine = Engine(
            settings,
            self.busy_ledger,
            policy=policy,
            on_recorded=self._on_recorded,
            on_unopened=self._on_unopened,
            now=self.now,
            witnessed=lambda line: max((witness.renewals_of(line) or 0 for witness in self._witnesses), default=0),
        )
        self.flower_events = FlowerEvents(events, in_flight=lambda: self.engine.calls, deliveries=self._deliveries)
        self.wakeup = wakeup_of(self.ledger)
        self.leadership = Leadership(
            self.ledger,
            holder=lambda: self.engine.worker_id,
            now=self.now,
            lease_s=settings.lease_s,
            poll_s=settings.poll_s,
            witnesses=self._witnesses,
            hear_s=2 * settings.beat_interval_s,
            key_max_age=lambda: self.engine.key_max_age,
        )
        self.services = Services([*self._outer_services(), *self._leading_services(publish, policy)])

    def _outer_services(self) -> Iterator[Service]:
        """What the leading services use, and the engine: they call the API through it, so it must outlive them."""
        yield resource("ledger", self._close_ledgers)
        if self._redis_witness is not None:
            yield resource("witness", self._redis_witness.close)
        yield resource("wakeup", self.wakeup.close)
        if self._settings.metrics_address:
            exporter = Exporter(self._settings.metrics_address, self.engine, self.leadership, self.ledger)
            yield Service("exporter", exporter.start, exporter.stop)
        yield loop("flower events", self.flower_events, limit_s=1.0)
        file = HeartbeatFile(self._settings.run_dir or run_directory(os.environ))
        self.engine.loop.ticks.append(lambda: file.beat(self._obstacles()))
        yield Service("heartbeat file", partial(_open, file), file.close)
        yield Service("engine", self.engine.start, self.engine.stop)

    def _leading_services(self, publish: Publish, policy: Policy) -> Iterator[Service]:
        """Loops that act only in the leader. The deliverer stops first, then the dispatcher, which ends the lead."""
        settings, ledger, leadership, now = self._settings, self.ledger, self.leadership, self.now
        absent, poll = Absent(), WorkPoll(self.busy_ledger, now=now)
        reconciler = Reconciler(
            ledger,
            leadership,
            poll,
            self.engine,
            settings,
            self.alerts,
            on_resolved=self._on_resolved,
            absent=absent,
            now=now,
        )
        yield loop("reconciler", reconciler, limit_s=2.0)
        yield loop("pruner", Pruner(ledger, leadership, settings, now=now), limit_s=2.0)
        yield loop("grant checker", GrantChecker(ledger, leadership, poll, self.engine, settings, now=now), limit_s=2.0)
        repair = ClockRepair(ledger, leadership, now=now, repeat_s=settings.stale_after_s)
        yield loop("clock repair", repair, limit_s=2.0)
        yield loop("mail reports", MailReports(ledger, leadership, poll, now=now), limit_s=2.0)
        if settings.ask_delivery_s:
            yield loop(
                "send events",
                SendEvents(ledger, leadership, self.engine, settings, absent=absent, now=now),
                limit_s=2.0,
            )
        if settings.bounce_hold_s is not None:
            yield loop("bounce holds", BounceHolds(ledger, leadership, settings, now=now), limit_s=2.0)
        yield loop("budget watch", BudgetWatch(ledger, leadership, settings.send_budgets, now=now), limit_s=2.0)
        yield loop("followers", Followers(ledger, leadership, poll, self.engine, settings, now=now), limit_s=2.0)
        yield loop("batches", Batches(ledger, leadership, poll, now=now), limit_s=2.0)
        rescuer = Rescuer(
            ledger,
            leadership,
            now=now,
            unclaimed_after_s=settings.unclaimed_after_s,
            later_s=random.uniform(*LATER_S),
            key_max_age=lambda: self.engine.key_max_age,
        )
        yield loop("rescuer", rescuer, limit_s=2.0)
        dispatcher = Dispatcher(
            self.busy_ledger,
            publish,
            self.wakeup,
            leadership=leadership,
            holder=lambda: self.engine.worker_id,
            now=now,
            poll_s=settings.poll_s,
            bundle_turns=settings.bundle_turns,
            bundle_slots=settings.concurrency,
            paces=settings.lane_paces,
            take_on=self._take_on_soon if settings.local_turns else lambda bundle, busy: False,
            claim_at_once=self.engine.intake.claim_at_once if settings.local_turns else none_at_once,
        )
        yield loop("dispatcher", dispatcher, limit_s=2.0)
        yield loop("deliverer", Deliverer(ledger, leadership, poll, settings, policy=policy, now=now), limit_s=1.0)

    def start(self) -> None:
        """Start all services; raises `SchemaMismatch` or `LedgerUnavailable` if the ledger cannot be used."""
        schema = migrate.require(self.ledger)
        if schema.status == "ahead":
            journal.newer_version("schema", str(schema.found))
        self.services.start()

    def stop(self) -> None:
        """Stop all services: resign the lead, finish the calls, and deregister."""
        self.services.stop()
        self.spans.close()

    def _obstacles(self) -> list[str]:
        """Why this process cannot accept work: a short text for each reason."""
        obstacles = {
            "stopping": self.engine.stopping,
            "no lease: the ledger is unavailable": not self.engine.heartbeat.lease.holds(),
            "no broker": not self._consumes(),
            "turns cannot be published to the broker": self.engine.heartbeat.trouble.unpublished_since is not None,
        }
        return [words for words, holds in obstacles.items() if holds]

    def _close_ledgers(self) -> None:
        self.ledger.dispose()
        self.busy_ledger.dispose()

    def hurry(self) -> None:
        """Make `stop` not wait for calls; may be called by a signal handler."""
        self.engine.hurry()

    def take_on(self, turns: object) -> int:
        """Start a bundle from the broker. Turns in it that cannot be read stay unclaimed and are offered again."""
        readable, all_of_it = from_message(turns)
        if not all_of_it:
            journal.newer_version("message", BUNDLE)
        return self.engine.intake.take_on(readable) if readable else 0

    def _take_on_soon(self, bundle: Sequence[Turn], busy: float) -> bool:
        """Take on a bundle of the own dispatcher, without the broker, if there is room and others are as busy."""
        turns = [(turn.lane_id, turn.fence, turn.slots) for turn in bundle]
        return self.engine.intake.take_on_soon(turns, busy=busy)

    def _on_recorded(self, outcomes: Sequence[Outcome], recorded: Recorded) -> None:
        self.engine.heartbeat.note_moves(outcomes)
        for outcome in outcomes:
            journal.recorded(outcome)
            if outcome.hold is not None and outcome.hold.scope == Scope.GRANT:
                journal.held(outcome)
        for outcome in recorded.incidents:
            journal.held(outcome)
        for outcome in recorded.given_up:
            journal.ended_without_call(outcome)
            metrics.ended(outcome)
        if recorded.late:
            journal.late_outcomes(recorded.late)
        if recorded.sent_twice:
            journal.sent_twice(recorded.sent_twice)
        metrics.recorded(outcomes)
        self.flower_events.recorded(outcomes)
        self.alerts.recorded([*outcomes, *recorded.given_up], recorded)
        self.traces.recorded(outcomes)
        self.spans.recorded(outcomes)
        if recorded.wants_turns:  # if this process leads, its dispatcher need not wait for its poll
            self.wakeup.wake()

    def _deliveries(self, jobs: Sequence[UUID]) -> dict[UUID, str]:
        with reading(self.ledger) as connection:
            return {job: status.delivery for job, status in read_statuses(connection, jobs).items()}

    def _on_unopened(self, unopened: Unopened) -> None:
        for key_name, jobs in unopened.missing.items():
            journal.encryption_key_missing(key_name, jobs=jobs)
        if unopened.unencrypted:
            journal.not_encrypted(jobs=unopened.unencrypted)
        if unopened.altered or unopened.altered_lanes:
            journal.integrity_check_failed(jobs=unopened.altered, lanes=unopened.altered_lanes)
        metrics.unopened(unopened)
        self.alerts.unopened(unopened)

    def _on_resolved(self, outcome: Outcome) -> None:
        """Report a doubt that ended. No call was made; its trail says what was learnt about the earlier calls."""
        journal.doubt_resolved(outcome)
        metrics.ended(outcome)
        self.flower_events.recorded([outcome])
        self.alerts.recorded([outcome], Recorded())
        self.wakeup.wake()


def _open(file: HeartbeatFile) -> None:
    try:
        file.open()
    except OSError as error:
        journal.heartbeat_file_failed(error)


def open_ledgers(settings: Settings) -> tuple[Ledger, Ledger]:
    """The ledger's engine, and the one of what runs for every job, with a connection for every thread that may need
    one. On PostgreSQL the latter keeps plans; on SQLite it is the same one.
    """
    url = settings.ledger_url.get_secret_value()
    if url.startswith("sqlite"):
        settings.make_home()
        ledger = open_engine(url)
        return ledger, ledger
    return (
        open_busy_engine(url, pool_size=OTHER_CONNECTIONS, max_overflow=2),
        open_busy_engine(url, keeps_plans=True, pool_size=settings.threads + BUSY_CONNECTIONS, max_overflow=2),
    )


def witnesses_of(ledger: Ledger, redis: RenewalWitness | None) -> list[Witness]:
    """What remembers the renewals of the lease outside of the ledger."""
    witnesses: list[Witness] = [] if redis is None else [redis]
    if ledger.dialect.name == "sqlite":
        assert ledger.url.database is not None
        witnesses.append(RenewalFile(ledger.url.database))
    return witnesses


def wakeup_of(ledger: Ledger) -> Wakeup:
    """The dispatcher's wakeup for this kind of ledger."""
    if ledger.dialect.name == "sqlite":
        assert ledger.url.database is not None
        return SqliteWakeup(ledger.url.database)
    return PostgresWakeup(ledger)
