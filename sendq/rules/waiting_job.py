"""What may still be changed in a job that waits, and what a change does to it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import AFTER, NEEDS_APPROVAL, NOT_APPROVED, OUTSIDE_WINDOW, OVER_BUDGET, REJECTED, TAG_HELD
from sendq.rules.states import FINAL, MOVES, State
from sendq.rules.windows import next_opening

# `next_at` of a job that a person holds, or that waits for another job: 2300-01-01, later than any due time or expiry
# that may be asked for.
HELD: Micros = 10_413_792_000_000_000

# … and of one that waits for approval and is not held: a day later, so that both are known apart.
UNAPPROVED: Micros = HELD + 86_400 * SECOND

# Rules of jobs that a claim put off, and that are brought back when the hold of their tag, their window or the wait for
# a budget ends early.
PUT_OFF = frozenset({TAG_HELD, OUTSIDE_WINDOW, OVER_BUDGET})

# How long a job that never expires may wait for approval, once it is due and its window is open.
APPROVAL_TIME: Micros = 72 * 3_600 * SECOND


class Changeable(Protocol):
    """The columns of a job that are read here."""

    @property
    def operation(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def due_at(self) -> Micros: ...
    @property
    def next_at(self) -> Micros: ...
    @property
    def resume_at(self) -> Micros | None: ...
    @property
    def expires_at(self) -> Micros | None: ...
    @property
    def approve_by(self) -> Micros | None: ...
    @property
    def approved_at(self) -> Micros | None: ...
    @property
    def doubt_at(self) -> Micros | None: ...
    @property
    def rule(self) -> str | None: ...
    @property
    def content_version(self) -> int: ...
    @property
    def time_window(self) -> str | None: ...


class ChangeKind(StrEnum):
    """What a person or program may change in a job that waits; also the kind of the event."""

    RESCHEDULE = "reschedule"
    PRIORITY = "priority"
    HOLD = "hold"
    RELEASE = "release"
    APPROVE = "approve"
    REJECT = "reject"


# Decisions about jobs that wait for approval.
DECISIONS = frozenset({ChangeKind.APPROVE, ChangeKind.REJECT})

# What has been done to a job, for sentences.
DONE: Mapping[ChangeKind, str] = {
    ChangeKind.RESCHEDULE: "rescheduled",
    ChangeKind.PRIORITY: "given another priority",
    ChangeKind.HOLD: "held",
    ChangeKind.RELEASE: "released",
    ChangeKind.APPROVE: "approved",
    ChangeKind.REJECT: "rejected",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``due_at`` and ``expires_at``: those of a reschedule; ``keeps_expiry``: the expiry is not changed;
    ``at``: when an approval or rejection is made; ``content``: the content version that it is about, None: any.
    """

    kind: ChangeKind
    due_at: Micros = 0
    expires_at: Micros | None = None
    keeps_expiry: bool = True
    priority: int = 0
    at: Micros = 0
    content: int | None = None

    def expiry_of(self, job: Changeable) -> Micros | None:
        """The job's expiry after this change."""
        return job.expires_at if self.keeps_expiry else self.expires_at

    def is_too_late(self, job: Changeable) -> bool:
        """Whether the job would expire before it is due."""
        expires_at = self.expiry_of(job)
        return self.kind is ChangeKind.RESCHEDULE and expires_at is not None and expires_at <= self.due_at


class Approvable(Protocol):
    """What says whether a job needs approval, and has it: times in microseconds, or as views have them."""

    @property
    def approve_by(self) -> object: ...
    @property
    def approved_at(self) -> object: ...


class Holdable(Protocol):
    """The columns of a job that say whether a person holds it."""

    @property
    def next_at(self) -> Micros: ...
    @property
    def resume_at(self) -> Micros | None: ...


def waits_for_approval(job: Approvable) -> bool:
    """Whether a job needs approval and has none: it does not begin, whatever else is changed in it."""
    return job.approve_by is not None and job.approved_at is None


def approve_by_of(start: Micros, expires_at: Micros | None, window: str | None) -> Micros:
    """Until when a job may wait for approval that is due at ``start``: until it expires, or, if it never does, for
    `APPROVAL_TIME` after its own window (None: it has none) is open. One that waits for another job (`HELD`) may wait
    for approval as long as for that.
    """
    if expires_at is not None:
        return expires_at
    if start >= HELD:
        return HELD
    return next_opening(window, start) + APPROVAL_TIME


def unapproved(start: Micros, expires_at: Micros | None, window: str | None) -> dict[str, Any]:
    """The columns of a new job that needs approval, and may begin at ``start``."""
    approve_by = approve_by_of(start, expires_at, window)
    return {"next_at": UNAPPROVED, "resume_at": start, "approve_by": approve_by, "rule": NEEDS_APPROVAL}


def is_held(job: Holdable) -> bool:
    """Whether a person holds it; it may wait for approval, too."""
    return job.resume_at is not None and job.next_at != UNAPPROVED


def after_replacement(job: Changeable, *, now: Micros) -> dict[str, Any]:
    """The columns to set once the content of a waiting job is another one: what was approved was the old one."""
    if job.approve_by is None or waits_for_approval(job):
        return {}
    begins = HELD if is_parked(job) else max(job.due_at, now)
    approve_by = approve_by_of(begins, job.expires_at, job.time_window)
    start = job.next_at if job.resume_at is None else job.resume_at
    if job.rule in PUT_OFF:  # a wait that may end early, and then only what has its rule is found
        start = job.due_at
    held = is_held(job)
    return {
        "approved_at": None,
        "approve_by": approve_by,
        "rule": NEEDS_APPROVAL,
        "next_at": job.next_at if held else UNAPPROVED,
        "resume_at": start,
    }


def is_parked(job: Changeable) -> bool:
    """Whether the job waits for another job (`sendq.rules.after`), whatever else it waits for."""
    return (job.next_at if job.resume_at is None else job.resume_at) >= HELD


def refusal(job: Changeable, change: Change | None = None) -> str | None:
    """Why this (None: anything) cannot be changed in this job, or not any more; None: it can.

    A message that may have gone out is left alone even while it waits for its repeat: a repeat at another time could be
    a second copy.
    """
    state = State(job.state)
    if state not in MOVES:
        return "a newer version of sendq is handling it"
    if state is State.SENDING:
        return "its call is being made"
    if state is State.IN_DOUBT or (state is State.QUEUED and must_be_repeated(job.operation, job.doubt_at)):
        return "it may have been sent, and that must be known first"
    decision = change if change is not None and change.kind in DECISIONS else None
    if state in FINAL:
        late = decision is not None and job.rule == NOT_APPROVED
        return f"{_LATE}; to have it wait for approval again: sendq retry" if late else "it has ended"
    return None if decision is None else _undecidable(job, decision)


def other_content(job: Changeable, content: int | None) -> str | None:
    """Why a job does not have the content version that was read (None: any); None: it has."""
    if content in (None, job.content_version):
        return None
    return f"its content is another one: version {job.content_version}, not {content}"


_LATE = "it was not approved in time"


def _undecidable(job: Changeable, decision: Change) -> str | None:
    """Why a job that waits can be neither approved nor rejected."""
    if job.approve_by is None:
        return "it needs no approval"
    if (other := other_content(job, decision.content)) is not None:
        return other
    if job.approved_at is not None:
        return "it is approved already"
    return _LATE if job.approve_by <= decision.at else None


def after_change(job: Changeable, change: Change, *, position: int = 0) -> dict[str, Any]:
    """The columns of a waiting job to set; empty if it is already as asked for.

    ``position``: its place among those that are changed together, which keeps their order. A hold remembers when the
    job may begin (the wait before a retry included), and a release restores it. Only an approval approves: one that
    waits for it is held and released without any effect on that.
    """
    waits = waits_for_approval(job)
    match change.kind:
        case ChangeKind.HOLD:
            return {} if is_held(job) else {"next_at": HELD, "resume_at": job.resume_at if waits else job.next_at}
        case ChangeKind.RELEASE:
            if not is_held(job):
                return {}
            return {"next_at": UNAPPROVED} if waits else {"next_at": job.resume_at, "resume_at": None}
        case ChangeKind.APPROVE:
            begins = {} if is_held(job) else {"next_at": job.resume_at, "resume_at": None}
            rule = AFTER if is_parked(job) else None
            return {"approved_at": change.at, "rule": rule, **begins} if waits else {}
        case ChangeKind.REJECT:
            return {"state": State.CANCELLED.value, "rule": REJECTED} if waits else {}
        case ChangeKind.PRIORITY:
            return {} if job.priority == change.priority else {"priority": change.priority}
    start = change.due_at + position
    expires_at = change.expiry_of(job)
    times: dict[str, Any] = {"next_at": start} if job.resume_at is None else {"resume_at": start}
    if is_parked(job):  # until it has been released, whatever its due time
        times = {}
    if waits:
        limit_from = HELD if is_parked(job) else change.due_at
        times["approve_by"] = approve_by_of(limit_from, expires_at, job.time_window)
    return {"due_at": change.due_at, "expires_at": expires_at, **times}
