"""Where the outcome of a job is sent: the values of ``on_outcome``. Pure.

    billing.tasks.mail_outcome            a Celery task, by its dotted name, on that application's default queue
    billing.tasks.mail_outcome@billing    the same, on the queue "billing"
    webhook:billing                       an endpoint that the workers' settings name (SENDQ_OUTCOME_ENDPOINTS)
    https://hooks.example.com/mail        a webhook on a host that the workers' settings allow (SENDQ_OUTCOME_HOSTS)

A web application that takes a URL from its customers must not open a way into the network of the workers. So enqueue
checks the form only, and the workers' settings decide what may be called: an endpoint by its name, which keeps URL and
secret out of the ledger, a URL whose host is on their list, or a task on a queue that theirs allows
(SENDQ_OUTCOME_TASKS). Tasks and queues of sendq itself are refused here.

The *receiver* of a target is the service behind it. All targets of one receiver fail together, so they are paused
together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from sendq.errors import Problem
from sendq.messages.characters import text_fault

MAX_TARGET = 255

# Whatever the workers' settings allow: tasks and queues of sendq, and what Celery and kombu use themselves.
_NO_TASKS = ("sendq.", "celery.")
_NO_QUEUES = ("sendq", "_kombu", "unacked")

# The default queue of a Celery application.
CELERY_QUEUE = "celery"

_REMEDY = (
    "use a Celery task's dotted name (billing.tasks.mail_outcome, or …@queue), webhook:NAME of an endpoint in the "
    "workers' settings, or an https:// URL"
)

_task = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.ASCII).fullmatch
_queue = re.compile(r"[\w.:-]{1,100}", re.ASCII).fullmatch
_pattern = re.compile(r"(?:\*|[A-Za-z_][\w.]*\*?)(?:@(?:\*|[\w.:-]{1,100}\*?))?", re.ASCII).fullmatch
_endpoint = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}").fullmatch
_host = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*").fullmatch


@dataclass(frozen=True, slots=True)
class TaskTarget:
    """A task of another Celery application."""

    task: str
    queue: str = CELERY_QUEUE

    @property
    def receiver(self) -> str:
        """All tasks are sent through one broker."""
        return "celery"


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """A webhook by its name in the workers' settings."""

    name: str

    @property
    def receiver(self) -> str:
        """The endpoint itself."""
        return f"webhook:{self.name}"


@dataclass(frozen=True, slots=True)
class UrlTarget:
    """A webhook by its URL. ``host`` is ``name`` or ``name:port``, the port only if it is not 443."""

    url: str
    host: str

    @property
    def receiver(self) -> str:
        """Its host: all URLs on one host fail together."""
        return f"https://{self.host}"


Target = TaskTarget | EndpointTarget | UrlTarget


def parse_target(value: object, *, field: str = "on_outcome") -> Target | Problem:
    """The target, or what is wrong with it. The problem does not show the value, because URLs may contain tokens."""
    found = _parsed(value)
    return Problem(field, found, _REMEDY) if isinstance(found, str) else found


def allows(allowed: Iterable[str], target: TaskTarget) -> bool:
    """Whether a list of ``TASK@QUEUE`` has this target. Either part may end with ``*``; no queue is any queue."""
    return any(_matches(entry, target) for entry in allowed)


def _matches(entry: str, target: TaskTarget) -> bool:
    task, _, queue = entry.partition("@")
    return _fits(task, target.task) and _fits(queue or "*", target.queue)


def _fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def task_pattern_fault(entry: str) -> str | None:
    """What is wrong with an entry of the list that `allows` reads, or None."""
    return None if _pattern(entry) else "is not a task's name, or the beginning of one and *, with or without @queue"


def is_endpoint_name(name: str) -> bool:
    """Whether this is a valid name of an endpoint."""
    return _endpoint(name) is not None


def host_fault(host: str) -> str | None:
    """What is wrong with a host of the list (``name`` or ``name:port``), or None."""
    found = _url(f"https://{host}/")
    if isinstance(found, str):
        return found
    return None if found.host == host.lower() else "is not a host (name, or name:port unless it is 443)"


def _parsed(value: object) -> Target | str:
    if not isinstance(value, str):
        return "is not a string"
    if not value:
        return "is empty"
    if len(value) > MAX_TARGET:
        return f"has more than {MAX_TARGET} characters"
    if (fault := text_fault(value)) is not None:
        return fault
    scheme, colon, rest = value.partition(":")
    if "//" in value or scheme.lower() in ("http", "https"):
        return _url(value)
    if colon and "@" not in scheme:
        if scheme != "webhook":
            return "begins with a scheme other than webhook: and https:"
        return (
            EndpointTarget(rest)
            if is_endpoint_name(rest)
            else "is not an endpoint's name: 1 to 40 of a-z, 0-9, - and _"
        )
    return _task_target(value)


def _task_target(value: str) -> TaskTarget | str:
    task, at, queue = value.partition("@")
    if _task(task) is None:
        return "is neither a task's dotted name nor a URL"
    if task.startswith(_NO_TASKS):
        return "names a task of sendq or of Celery itself"
    if not at:
        return TaskTarget(task)
    if _queue(queue) is None:
        return "has no valid queue after the @: up to 100 of a-z, 0-9, . _ : -"
    return "names a queue that sendq or Celery itself uses" if _is_reserved(queue) else TaskTarget(task, queue)


def _is_reserved(queue: str) -> bool:
    return queue.lower().startswith(_NO_QUEUES) or queue.endswith(".pidbox") or queue.startswith("celeryev")


def _url(value: str) -> UrlTarget | str:
    if not value.isprintable() or not value.isascii() or " " in value or "\\" in value:
        return "contains a space, a backslash, a control character or one outside ASCII"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme == "http":
        return "is not encrypted (http://)"
    if parts.scheme != "https":
        return "is not a URL that begins with https://"
    if "@" in parts.netloc or "#" in value:
        return "contains a login or a fragment (#), which webhook URLs cannot have"
    host = parts.hostname or ""
    if _host(host) is None or port == 0:
        return "has no valid host"
    return UrlTarget(value, host if port in (None, 443) else f"{host}:{port}")
