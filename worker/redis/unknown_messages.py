"""Messages that this version does not understand: kept for one that does, or let go without a word of what they hold.

A message whose task nobody here knows may be of a newer version that is just being rolled out, or of a task that is
switched off here. It goes into a queue of its own, which nobody reads but those who look there once a minute whether
they know one of them by now. A message that no version could read (damaged, or meant for somebody else) is let go: our
own bundles come back from the ledger in any case.

Celery would write the whole body into the log, where other applications' messages may hold addresses and subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer

from settings.celery import QUEUE
from worker.processes.periodic_loop import PeriodicLoop
from worker.telemetry import journal

ASIDE = f"{QUEUE}.strange"
LOOK_EVERY_S = 60.0
LOOK_MOST = 1_000  # at one time


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, but for what becomes of messages that it cannot make a task of."""

    def create_task_handler(self) -> Callable[[Any], None]:
        """A body of another shape would end this worker, and then, restored, each one after it."""
        handle = super().create_task_handler()

        def handle_or_let_go(message: Any) -> None:
            try:
                handle(message)
            except (TypeError, ValueError, LookupError, AttributeError):
                self._let_go(message)

        return handle_or_let_go

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        name = str(message.headers.get("task"))
        with self.app.producer_or_acquire() as producer:
            _hand_on(producer, message, ASIDE)
        message.ack_log_error(_Silent(), self.connection_errors)
        journal.newer_version("task", name)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._let_go(message)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        self._let_go(message)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        self._let_go(message)

    def _let_go(self, message: Any) -> None:
        message.ack_log_error(_Silent(), self.connection_errors)
        journal.newer_version("message", "damaged")


class UnknownMessages(PeriodicLoop):
    """Takes back what this worker understands."""

    def __init__(self, app: Celery) -> None:
        super().__init__("strangers", every_s=LOOK_EVERY_S)
        self._app = app

    def run_once(self) -> None:
        """Look through what is there now, once."""
        with self._app.connection_or_acquire() as connection:
            try:
                take_back(self._app, connection)
            except (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors):
                return  # the broker is away: another time


def take_back(app: Celery, connection: Any) -> int:
    """Hand messages whose task is known here back to the workers' queue; gives how many."""
    known = 0
    with app.producer_or_acquire() as producer, connection.SimpleQueue(ASIDE) as aside:
        queue = aside.queue
        for _ in range(min(LOOK_MOST, aside.qsize())):
            message = queue.get()
            if message is None:
                break
            is_known = message.headers.get("task") in app.tasks
            _hand_on(producer, message, QUEUE if is_known else ASIDE)
            message.ack()
            known += is_known
    return known


def _hand_on(producer: Any, message: Any, queue: str) -> None:
    """Publish it as it is."""
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
    """Takes the place of Celery's logger where a failed acknowledgement is not worth the words."""

    def critical(self, *_: object, **__: object) -> None:
        """The connection is gone, and the message comes back."""
