"""``sendq.enqueue``: the task by which another Celery application enqueues a job, validated like a call of `SendQueue`.

    app.send_task("sendq.enqueue", queue="sendq.enqueue", kwargs={
        "operation": "send", "grant_id": "…", "key": "invoice-42",
        "message": {"to": ["leyah@example.com"], "subject": "Invoice 42", "body": "<p>…</p>"},
    })

    operation                                        send or modify
    grant_id                                         the grant's id
    key                                              required, because Celery may deliver a message twice
    message                                          for send: the fields of `sendq.Message`, without attachments
    message_ids, unread, starred, folders, metadata  for modify: as `SendQueue.modify` takes them
    due_at, expires_at                               ISO 8601 with a time zone; expires_at may be "never"
    priority, application, provider, on_outcome, tags    as in `sendq.Options`; for send: suppressed too

The task returns nothing; use ``on_outcome`` to learn the outcome. A message that the broker loses before a worker has
stored it is lost: a web application that can reach the ledger should use `SendQueue`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sendq.enqueueing.expiry import NEVER
from sendq.errors import InvalidJob, Problem
from sendq.messages.characters import shown
from sendq.messages.message import Message
from sendq.queue import SendQueue
from sendq.views import Batch, Job

_OPTIONS = ("key", "due_at", "expires_at", "priority", "application", "provider", "on_outcome", "tags")
_CHANGES = ("unread", "starred", "folders", "metadata")
_FIELDS = {
    "send": frozenset({"operation", "grant_id", "message", "suppressed", *_OPTIONS}),
    "modify": frozenset({"operation", "grant_id", "message_ids", *_CHANGES, *_OPTIONS}),
}


def accept(queue: SendQueue, positional: tuple[Any, ...], arguments: Mapping[str, Any]) -> Job | Batch:
    """Enqueue what a message asks for.

    Raises:
        InvalidJob, KeyConflict: it cannot become a job; repeating it is useless.
        Retryable, LedgerUnavailable, SchemaMismatch: the ledger cannot take it now; repeat it later.
    """
    problems = _shape_problems(positional, arguments)
    options = {name: arguments[name] for name in _OPTIONS if arguments.get(name) is not None}
    for name in ("due_at", "expires_at"):
        if name in options:
            options[name] = _time(name, options[name], problems)
    if problems:
        raise InvalidJob(problems)
    grant_id = arguments.get("grant_id")
    if arguments["operation"] == "send":
        if arguments.get("suppressed") is not None:
            options["suppressed"] = arguments["suppressed"]
        return queue.send(grant_id, _message(arguments.get("message")), **options)  # type: ignore[arg-type]
    changes = {name: arguments.get(name) for name in _CHANGES}
    return queue.modify(grant_id, arguments.get("message_ids"), **changes, **options)  # type: ignore[arg-type]


def _shape_problems(positional: tuple[Any, ...], arguments: Mapping[str, Any]) -> list[Problem]:
    if positional:
        return [Problem("args", "has positional arguments", "pass all arguments by name, in kwargs")]
    operation = arguments.get("operation")
    if not isinstance(operation, str) or operation not in _FIELDS:
        return [Problem("operation", "is neither send nor modify", "use one of them")]
    known = _FIELDS[operation]
    problems = [
        Problem(shown(name), f"is not an argument of {operation}", "remove it")
        for name in arguments
        if name not in known
    ]
    if arguments.get("key") is None:
        problems.append(Problem("key", "is missing", "set one: Celery may deliver a message twice"))
    return problems


def _time(name: str, value: object, problems: list[Problem]) -> Any:
    if name == "expires_at" and value == "never":
        return NEVER
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    problems.append(Problem(name, "is not a time", "write it like 2026-07-01T09:00:00Z"))
    return None


def _message(value: object) -> Message:
    # Not even as a path, which would name a file on the worker.
    if isinstance(value, Mapping) and value.get("attachments"):
        reason = "cannot be used: files are not sent through the broker"
        raise InvalidJob([Problem("message.attachments", reason, "enqueue with SendQueue")])
    try:
        return Message.of(value)
    except InvalidJob as wrong:
        raise InvalidJob([problem.under("message") for problem in wrong.problems]) from None
