"""The task `sendq.enqueue`: jobs of other Celery applications (`tasks.enqueue`) are stored, put back, or rejected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine as Ledger

from sendq.errors import InvalidJob, KeyConflict, SendqError
from settings import Settings
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# Celery's own ids are UUIDs, but an application may choose any other text.
TASK_ID_MOST = 64


class EnqueueTask:
    """Enqueues what messages ask for, if SENDQ_ENQUEUE_TASK is set."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._accept = _accept_into(settings, ledger) if settings.enqueue_task else None

    def enqueue(self, task: str, positional: tuple[Any, ...], arguments: Mapping[str, Any]) -> SendqError | None:
        """Enqueue for another application; return the error if it is transient, else None.

        A message that can never become a job is reported in the log and to Sentry, and dropped.

        ``task`` is the message's id.
        """
        task = task if task.isascii() and task.isprintable() and len(task) <= TASK_ID_MOST else "…"
        rule, reasons = "enqueue_off", ["SENDQ_ENQUEUE_TASK is not set"]
        if self._accept is not None:
            try:
                self._accept(positional, arguments)
                return None
            except InvalidJob as wrong:
                rule, reasons = "invalid_job", [str(problem) for problem in wrong.problems]
            except KeyConflict as conflict:
                rule, reasons = "key_conflict", [str(conflict)]
            except SendqError as error:
                journal.enqueue_requeued(task, error)
                return error
            except Exception:
                journal.bug("enqueue", task=task)
                rule, reasons = "bug", ["the line before this one says more"]
        journal.enqueue_rejected(task, reasons)
        alert("enqueue_rejected", rule, level="error", task=task)
        return None


def _accept_into(settings: Settings, ledger: Ledger) -> Any:
    # Only here: a worker without the task needs no messages and no validation of addresses.
    from functools import partial

    from sendq import SendQueue
    from tasks.enqueue import accept

    queue = SendQueue(
        ledger, metadata_key=settings.metadata_key, vault=settings.vault, unsubscribe_url=settings.unsubscribe_url
    )
    return partial(accept, queue)
