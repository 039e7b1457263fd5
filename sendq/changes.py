"""Checks the arguments of changes to jobs that wait: errors name field, reason and remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sendq.clock import Micros, micros, moment
from sendq.enqueueing.arguments import check_key, check_priority, check_times, priority_number
from sendq.enqueueing.expiry import NEVER, Expiry
from sendq.enqueueing.targets import parse_target
from sendq.errors import InvalidArgument, Problem
from sendq.ledger.waiting_jobs import Author
from sendq.rules.waiting_job import Change, ChangeKind
from sendq.signing import maybe_signed
from sendq.views import Priority

# The author of what a program changes without naming one.
PROGRAM = "program"

HOLD = Change(ChangeKind.HOLD)
RELEASE = Change(ChangeKind.RELEASE)


def reschedule_of(due_at: datetime | None, expires_at: Expiry, *, now: Micros) -> Change:
    """A reschedule; ``due_at`` None or in the past: now; ``expires_at`` None: unchanged. Raises `InvalidArgument`."""
    given = None if expires_at is NEVER else expires_at
    if problems := check_times(due_at, given, moment(now)):
        raise InvalidArgument(problems)
    start = now if due_at is None else max(now, micros(due_at))
    until = micros(given) if isinstance(given, datetime) else None
    return Change(ChangeKind.RESCHEDULE, due_at=start, expires_at=until, keeps_expiry=expires_at is None)


def decision_of(kind: ChangeKind, content: int | None = None) -> Change:
    """An approval or a rejection. ``content``: the only content version that it is about. Raises `InvalidArgument`."""
    check_content(content)
    return Change(kind, content=content)


def check_content(content: object) -> None:
    """Raise `InvalidArgument` unless it is a content version, or None: any."""
    if content is not None and (isinstance(content, bool) or not isinstance(content, int) or content < 0):
        remedy = "give the one that the job had when its content was read: JobView.content_version"
        raise InvalidArgument([Problem("content", "is not a content version: a number from 0 on", remedy)])


def priority_of(priority: Priority | str | int) -> Change:
    """A change of the priority. Raises `InvalidArgument`."""
    if problems := check_priority(priority):
        raise InvalidArgument(problems)
    return Change(ChangeKind.PRIORITY, priority=priority_number(priority))


def target_of(on_outcome: str | None) -> str | None:
    """Where to send an outcome. Raises `InvalidArgument`."""
    if on_outcome is not None and isinstance(problem := parse_target(on_outcome), Problem):
        raise InvalidArgument([problem])
    return on_outcome


def undo_key_of(key: str | None) -> str | None:
    """The key of an undo. Raises `InvalidArgument`."""
    if problems := check_key(key):
        raise InvalidArgument([replace(problem, field="undo_key") for problem in problems])
    return key


def author_of(by: str | None, reason: str | None) -> Author:
    """Who changes it, and why. Raises `InvalidArgument`."""
    return Author(*maybe_signed(PROGRAM if by is None else by, reason))
