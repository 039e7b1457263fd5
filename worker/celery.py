"""The Celery application, for ``python -m worker`` and ``celery -A worker flower``.

Celery runs the processes and transports bundles of turns; its task only passes a bundle to the engine of this process.
Importing this module reads the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps
from celery.exceptions import Reject
from celery.signals import celeryd_init
from celery.worker.control import inspect_command

from sendq.errors import SendqError
from sendq.facts.turns import Turn
from settings import Settings, SettingsError
from settings.celery import ENQUEUE, QUEUE, celery_config, foreign_variables, why_ignored
from settings.logs import start_logs
from settings.otel import start_tracing
from settings.sentry import flush_sentry, start_sentry
from settings.values import mask
from tasks import failpoints
from worker.bundles import BUNDLE, as_message
from worker.options import option_fault
from worker.processes import garbage
from worker.redis import transport
from worker.redis.unknown_messages import UnknownMessages
from worker.telemetry import journal

if TYPE_CHECKING:
    from worker.process import Process


# Pause before a message goes back to its queue because the ledger is unavailable.
PUT_BACK_S = 2.0

# A worker that stops waits this long for Sentry to take the last reports.
SENTRY_FLUSH_S = 2.0


def _settings() -> tuple[Settings, dict[str, Any]]:
    """Load the settings; print the problems and exit with status 2 if they are invalid."""
    try:
        settings = Settings.load()
        return settings, celery_config(settings)
    except SettingsError as error:
        print(f"sendq: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


if _ignored := foreign_variables(os.environ):
    print(f"sendq: {why_ignored(_ignored)}", file=sys.stderr)  # noqa: T201
    for _name in _ignored:
        del os.environ[_name]

# Flower does not show buttons that the workers refuse (`worker.remote_control`).
os.environ.setdefault("FLOWER_READ_ONLY", "true")
# `kwargs` shows the job's grant, `result` the rule that decided (`worker.telemetry.flower_events`).
os.environ.setdefault("FLOWER_TASKS_COLUMNS", "name,uuid,state,kwargs,result,runtime,received,worker")

settings, _config = _settings()
transport.register()
app = Celery("sendq", control="worker.remote_control:Control", fixups=set())  # none for an application's Django
app.conf.update(_config)


@celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]
def refuse_options(options: dict[str, Any], **_: Any) -> None:
    """Exit with status 2 if the worker was started with options that it cannot follow."""
    if fault := option_fault(options):
        print(f"sendq: {fault}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


class SendqStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """The part of the worker that belongs to sendq, between Celery's pool and its consumer."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.process: Process | None = None
        self.unknown_messages = UnknownMessages(app)

    def start(self, parent: Any) -> None:
        # Only here: Flower and `celery control` load this module as well.
        from worker.process import Process
        from worker.telemetry.spans import Spans

        start_logs(settings)
        start_sentry(settings)
        try:
            settings.require_keys()
            spans = Spans(start_tracing())
            self.process = Process(settings, publish, Events(parent), consumes=partial(_consumes, parent), spans=spans)
            self.process.start()
        except (SettingsError, SendqError) as error:
            print(f"sendq: {error}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
        self.unknown_messages.start()
        running.append(self.process)
        if threading.current_thread() is threading.main_thread():  # otherwise the worker is embedded in another program
            garbage.settle()
            _handle_signals(self.process)

    def stop(self, parent: Any) -> None:
        if self.process is not None:
            self.unknown_messages.stop(limit_s=0)
            # Meanwhile the pool's threads give back the turns that they hold.
            self.process.stop()
            running.remove(self.process)
            self.process = None
            flush_sentry(SENTRY_FLUSH_S)

    def terminate(self, parent: Any) -> None:
        """Called by Celery when it fails itself."""
        if self.process is not None:
            self.process.hurry()
        self.stop(parent)


def _consumes(worker: Any) -> bool:
    """Whether Celery's consumer is connected to the broker and reads our queue."""
    consumer = getattr(worker, "consumer", None)
    connection = getattr(consumer, "connection", None)
    return bool(consumer and consumer.blueprint.state == bootsteps.RUN and consumer.task_consumer and connection
                and connection.connected and consumer.task_consumer.consuming_from(QUEUE))  # fmt: skip


def _handle_signals(process: Process) -> None:
    """All stop signals start Celery's warm shutdown; after a second one, or SIGQUIT, sendq does not wait for calls.

    Celery's cold shutdown would not be faster (it cannot end threads) and would skip the hand-over in the ledger.
    """
    warm = signal.getsignal(signal.SIGTERM)
    assert callable(warm)
    asked = 0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1 or signum == signal.SIGQUIT:
            process.hurry()
        if asked == 1:
            warm(signum, frame)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, ask)


class QuietHeart(bootsteps.StartStopStep):  # type: ignore[misc]
    """Stops Celery's heartbeat, which counts bundles; `worker.telemetry.flower_events` sends one that counts calls."""

    requires = ("celery.worker.consumer.heart:Heart",)

    def start(self, consumer: Any) -> None:
        heart = consumer.heart
        if heart is not None and heart.tref is not None:
            consumer.timer.cancel(heart.tref)
            heart.tref = None


app.steps["worker"].add(SendqStep)
app.steps["consumer"].add(QuietHeart)

# The process of this worker; at most one.
running: list[Process] = []


class Events:
    """Celery's event dispatcher, which Celery replaces with each connection to the broker."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    @property
    def _dispatcher(self) -> Any:
        return getattr(getattr(self._worker, "consumer", None), "event_dispatcher", None)

    @property
    def wants_tasks(self) -> bool:
        """Whether task events are enabled. Without groups, all are."""
        dispatcher = self._dispatcher
        return dispatcher is not None and dispatcher.enabled and (not dispatcher.groups or "task" in dispatcher.groups)

    def send(self, kind: str, **fields: Any) -> None:
        """Send one event."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.send(kind, **fields)


def publish(bundles: Sequence[Sequence[Turn]]) -> None:
    """Publish bundles to the broker; raises the exceptions of its client."""
    with app.producer_or_acquire() as producer:
        for bundle in bundles:
            take_on.apply_async((as_message(bundle),), queue=QUEUE, producer=producer, retry=False)
            failpoints.reached("published")


@inspect_command(name="stats")  # type: ignore[untyped-decorator]
def stats(state: Any, **_: Any) -> dict[str, Any]:
    """Celery's statistics without the broker's password, which they include for a unix socket."""
    found: dict[str, Any] = state.consumer.controller.stats()
    broker = found["broker"]
    if isinstance(broker, dict) and broker.get("hostname"):
        broker["hostname"] = mask(broker["hostname"])
    return found


@app.task(name=BUNDLE, bind=True, send_events=False, ignore_result=True)  # type: ignore[untyped-decorator]
def take_on(_task: Task, turns: object = None, *_more: object, **_named: object) -> None:
    """Start a bundle of turns, and return without waiting for them. Further arguments are from a newer version."""
    if not running:
        return
    try:
        running[0].take_on(turns)
    except Exception as error:  # Celery would log its message. The turns are taken back, as unclaimed or as strays
        journal.claim_failed(error, turns=len(turns) if isinstance(turns, list) else 0)


@app.task(name=ENQUEUE, bind=True, send_events=False, ignore_result=True, acks_late=True)  # type: ignore[untyped-decorator]
def enqueue(task: Task, *args: Any, **kwargs: Any) -> None:
    """Enqueue for another application (`tasks.enqueue`). Acknowledged once it is stored or rejected."""
    error = running[0].enqueue_task.enqueue(str(task.request.id), args, kwargs) if running else None
    if error is not None or not running:
        time.sleep(PUT_BACK_S)
        raise Reject("the ledger is unavailable", requeue=True)
