"""What may still be changed in a job that waits, and what a change does to it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sendq.clock import Micros
from sendq.rules.preflight import must_be_repeated
from sendq.rules.states import FINAL, MOVES, State

# `next_at` of a job that a person holds: 2300-01-01, later than any due time or expiry that may be asked for.
HELD: Micros = 10_413_792_000_000_000


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
    def doubt_at(self) -> Micros | None: ...


class ChangeKind(StrEnum):
    """What a person or program may change in a job that waits; also the kind of the event."""

    RESCHEDULE = "reschedule"
    PRIORITY = "priority"
    HOLD = "hold"
    RELEASE = "release"


# What has been done to a job, for sentences.
DONE: Mapping[ChangeKind, str] = {
    ChangeKind.RESCHEDULE: "rescheduled",
    ChangeKind.PRIORITY: "given another priority",
    ChangeKind.HOLD: "held",
    ChangeKind.RELEASE: "released",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. ``due_at`` and ``expires_at``: those of a reschedule; ``keeps_expiry``: the expiry is not changed."""

    kind: ChangeKind
    due_at: Micros = 0
    expires_at: Micros | None = None
    keeps_expiry: bool = True
    priority: int = 0

    def expiry_of(self, job: Changeable) -> Micros | None:
        """The job's expiry after this change."""
        return job.expires_at if self.keeps_expiry else self.expires_at

    def is_too_late(self, job: Changeable) -> bool:
        """Whether the job would expire before it is due."""
        expires_at = self.expiry_of(job)
        return self.kind is ChangeKind.RESCHEDULE and expires_at is not None and expires_at <= self.due_at


def refusal(job: Changeable) -> str | None:
    """Why nothing can be changed in this job any more; None: it waits.

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
    if state in FINAL:
        return "it has ended"
    return None


def after_change(job: Changeable, change: Change, *, position: int = 0) -> dict[str, Any]:
    """The columns of a waiting job to set; empty if it is already as asked for.

    ``position``: its place among those that are changed together, which keeps their order. A hold remembers when the
    job may begin (the wait before a retry included), and a release restores it.
    """
    is_held = job.resume_at is not None
    match change.kind:
        case ChangeKind.HOLD:
            return {} if is_held else {"next_at": HELD, "resume_at": job.next_at}
        case ChangeKind.RELEASE:
            return {"next_at": job.resume_at, "resume_at": None} if is_held else {}
        case ChangeKind.PRIORITY:
            return {} if job.priority == change.priority else {"priority": change.priority}
    start = change.due_at + position
    times: dict[str, Any] = {"resume_at": start} if is_held else {"next_at": start}
    return {"due_at": change.due_at, "expires_at": change.expiry_of(job), **times}
