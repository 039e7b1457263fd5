"""Jobs and grants: what they are, why they wait, and changes of those that wait."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

from sendq import changes, clock
from sendq.api.decoding import arguments, check_reason, query_string, read_with, require_grant
from sendq.api.operation import Asked, Result, require_visible, shown
from sendq.enqueueing.arguments import check_priority, check_times, priority_number
from sendq.enqueueing.expiry import Expiry
from sendq.errors import InvalidArgument, Problem
from sendq.rules.windows import read_window
from sendq.scope import Scope
from sendq.views import Priority


class Estimated(StrEnum):
    """What an estimate is for."""

    SEND = "send"
    MODIFY = "modify"


LIST: dict[str, Any] = {
    "grant_id": str | None,
    "state": list[str] | None,
    "batch_id": str | None,
    "tag": str | None,
    "key": str | None,
    "since": datetime | None,
    "until": datetime | None,
    "limit": int | None,
    "cursor": str | None,
}
ETA: dict[str, Any] = {
    "operation": Estimated | None,
    "due_at": datetime | None,
    "priority": Priority | str | int,
    "window": str | None,
}
REASON: dict[str, Any] = {"reason": str | None}
RESCHEDULE: dict[str, Any] = {"due_at": datetime | None, "expires_at": Expiry, **REASON}
PRIORITY: dict[str, Any] = {"priority": Priority | str | int, **REASON}


def job(asked: Asked) -> Result:
    """A job with its attempts."""
    require_visible(asked, job_id=asked.values["job_id"])
    return Result(shown(asked.queue.job(asked.values["job_id"])))


def why(asked: Asked) -> Result:
    """Why a job is in its state."""
    require_visible(asked, job_id=asked.values["job_id"])
    return Result(shown(asked.queue.why(asked.values["job_id"])))


def cancel(asked: Asked) -> Result:
    """Cancel a job."""
    given = arguments(asked.given, REASON, check_reason, optional=True)
    require_visible(asked, job_id=asked.values["job_id"])
    return Result({"state": asked.queue.cancel(asked.values["job_id"], by=asked.author, **given)})


def jobs(asked: Asked) -> Result:
    """Jobs of the grants that the token covers, page by page."""
    filters, problems = query_string(asked.query, LIST)
    token = asked.token
    require_grant(token, filters.get("grant_id"))
    if "batch_id" in filters:
        require_visible(asked, batch_id=filters["batch_id"])
    read = partial(asked.queue.jobs, application=token.application, grants=asked.grants)
    return Result(read_with(read, filters, problems).as_json())


def reschedule(asked: Asked) -> Result:
    """Change when a job, or a batch's jobs, may begin."""

    def check(given: dict[str, Any]) -> None:
        if "due_at" not in asked.given:
            raise InvalidArgument([Problem("due_at", "is missing", "send a time, or null for at once")])
        changes.reschedule_of(given.get("due_at"), given.get("expires_at"), now=clock.now())

    return _change(asked, "reschedule", {"due_at": None} | arguments(asked.given, RESCHEDULE, check, check_reason))


def set_priority(asked: Asked) -> Result:
    """Change the priority of a job, or of a batch's jobs."""

    def check(given: dict[str, Any]) -> None:
        if "priority" not in given:
            raise InvalidArgument([Problem("priority", "is missing", "send high, normal or low")])
        changes.priority_of(given["priority"])

    return _change(asked, "set_priority", arguments(asked.given, PRIORITY, check, check_reason))


def hold(asked: Asked) -> Result:
    """Keep a job, or a batch's jobs, from beginning."""
    return _change(asked, "hold", arguments(asked.given, REASON, check_reason, optional=True))


def release(asked: Asked) -> Result:
    """End a hold of a job or batch."""
    return _change(asked, "release", arguments(asked.given, REASON, check_reason, optional=True))


def grant(asked: Asked) -> Result:
    """A grant: whether it is connected, what holds it, and how many of its jobs wait."""
    grant_id = _grant_id(asked)
    return Result(shown(asked.queue.grant(grant_id, application=asked.token.application)))


def eta(asked: Asked) -> Result:
    """When a job enqueued now would be carried out."""
    grant_id = _grant_id(asked)
    given, problems = query_string(asked.query, ETA)
    if given.setdefault("operation", "send") not in tuple(Estimated):
        problems.append(Problem("operation", f"is not one of {', '.join(Estimated)}", "give one of them"))
    due_at = given.get("due_at")
    if check_times(due_at, None, datetime.now(UTC)):
        problems.append(Problem("due_at", "is not a time with a time zone", "write it like 2026-07-01T09:00:00Z"))
    priority = given.pop("priority", Priority.NORMAL)
    problems += check_priority(priority)
    if (window := given.pop("window", None)) is not None:
        try:
            given["window"] = read_window(window)
        except InvalidArgument as wrong:
            problems += wrong.problems
    if problems:
        raise InvalidArgument(problems)
    given["priority"] = Priority(priority_number(priority))
    return Result(shown(asked.queue.eta(grant_id, application=asked.token.application, **given)))


def _change(asked: Asked, method: str, given: dict[str, Any]) -> Result:
    which = {name: asked.values[name] for name in ("job_id", "batch_id") if name in asked.values}
    require_visible(asked, **which)
    changed = getattr(asked.queue, method)(**which, **given, by=asked.author, grants=asked.grants)
    return Result({"changed": changed})


def _grant_id(asked: Asked) -> str:
    """The grant in the address. Raises `Refused`, and `InvalidArgument` for what cannot be one."""
    grant_id = asked.values["grant_id"]
    require_grant(asked.token, grant_id)
    Scope.of_grant(grant_id)
    return grant_id
