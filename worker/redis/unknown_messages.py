"""Messages that this version does not understand: set aside for one that does, or dropped, without a log of them.

A message with an unknown task may come from a newer version that is being rolled out, or be for a task that is switched
off here. It is moved to a separate queue, which each worker checks once a minute for messages it knows. A message that
no version could read (damaged, or from another application) is dropped: bundles are dispatched again from the ledger in
any case.

Celery would log the whole body, which in other applications' messages may contain addresses and subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer

from settings.celery import QUEUE
from worker.processes.periodic_loop import PeriodicLoop
from worker.redis.transport import SET_ASIDE
from worker.telemetry import journal

LOOK_EVERY_S = 60.0
LOOK_MOST = 1_000  # at one time


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, except for messages that it cannot turn into a task, and for what workers tell each other.

    Workers know of each other through the ledger. Celery's gossip and mingle would read what anybody published, and run
    tasks for them.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps, with our remote control."""

        default_steps = [  # noqa: RUF012
            "worker.remote_control:Step" if step == "celery.worker.consumer.control:Control" else step
            for step in Consumer.Blueprint.default_steps
        ]

    def __init__(self, *positional: Any, **options: Any) -> None:
        super().__init__(*positional, **options | {"without_gossip": True, "without_mingle": True})

    def create_task_handler(self) -> Callable[[Any], None]:
        """A malformed body would crash this worker and then, restored, the next ones."""
        handle = super().create_task_handler()

        def handle_or_drop(message: Any) -> None:
            if str(message.headers.get("task")).startswith("celery."):  # Celery's own, which run or repeat other tasks
                return self._drop(message)
            try:
                handle(message)
            except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError):
                self._drop(message)

        return handle_or_drop

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        name = str(message.headers.get("task"))
        with self.app.producer_or_acquire() as producer:
            _publish(producer, message, SET_ASIDE)
        message.ack_log_error(_Silent(), self.connection_errors)
        journal.newer_version("task", name)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._drop(message)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        self._drop(message)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        self._drop(message)

    def _drop(self, message: Any) -> None:
        if not message.acknowledged:
            message.ack_log_error(_Silent(), self.connection_errors)
        journal.message_dropped(QUEUE, "damaged, or of another application", size=len(message.body or b""))


class UnknownMessages(PeriodicLoop):
    """Moves set-aside messages that this worker understands back to its queue."""

    def __init__(self, app: Celery) -> None:
        super().__init__("unknown-messages", every_s=LOOK_EVERY_S)
        self._app = app

    def run_once(self) -> None:
        """Check the messages set aside once."""
        with self._app.connection_or_acquire() as connection:
            try:
                take_back(self._app, connection)
            except (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors):
                return  # the broker is unreachable: try again in the next round
            except AttributeError:  # kombu's, if Celery closed the pool meanwhile because it reconnects
                if connection.connected:
                    raise


def take_back(app: Celery, connection: Any) -> int:
    """Move messages that were set aside whose task is known here to the workers' queue; return how many."""
    known = 0
    with app.producer_or_acquire() as producer, connection.channel() as channel:
        for _ in range(min(LOOK_MOST, channel.queue_declare(SET_ASIDE).message_count)):
            message = channel.basic_get(SET_ASIDE)
            if message is None:
                break
            is_known = message.headers.get("task") in app.tasks
            _publish(producer, message, QUEUE if is_known else SET_ASIDE)
            message.ack()
            known += is_known
    return known


def _publish(producer: Any, message: Any, queue: str) -> None:
    """Publish the message unchanged."""
    producer.publish(
        message.body,
        exchange="",
        routing_key=queue,
        headers=message.headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        correlation_id=message.properties.get("correlation_id"),
        reply_to=message.properties.get("reply_to"),
        retry=False,
    )


class _Silent:
    """In place of Celery's logger where a failed acknowledgement needs no log line."""

    def critical(self, *_: object, **__: object) -> None:
        """The connection is lost, and the message is redelivered."""
