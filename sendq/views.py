"""What an application and an operator see of the ledger: frozen snapshots, with datetimes in UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from sendq.rules.states import State


class Priority(IntEnum):
    """Which jobs of a lane go first. A password reset is high, a newsletter low."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Job:
    """What enqueue gives back: ``existed`` says that the key had named this job before, and nothing new was stored."""

    id: str
    existed: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """The same for a bulk call, with the number of its jobs (None: a walk has to find them first)."""

    id: str
    total: int | None
    existed: bool = False


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One HTTP call for a job."""

    begun_at: datetime
    ended_at: datetime
    status: int | None
    rule: str
    route: str | None
    sent: str
    generation: int
    error_type: str | None
    error: str | None
    request_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as the ledger has it now, with its trail of attempts, the oldest first."""

    id: str
    state: State
    operation: str
    application: str | None
    grant_id: str | None
    batch_id: str | None
    object_id: str | None
    priority: Priority
    created_at: datetime
    due_at: datetime
    next_at: datetime
    expires_at: datetime | None
    finished_at: datetime | None
    attempts: int
    rule: str | None
    message_id: str | None
    trail: tuple[AttemptView, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job is where it is: ``reason`` for programs, ``says`` for people, ``until`` if a time ends it.

    ``by``: who held or closed what it waits for, ``policy`` or a person; ``note``: what that person gave as the reason.
    """

    job_id: str
    state: State
    reason: str
    says: str
    until: datetime | None = None
    rule: str | None = None
    by: str | None = None
    note: str | None = None
    ahead: int | None = None
    eta: datetime | None = None  # when it will about go, if only its lane's pace, holds and those ahead are in its way

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Eta:
    """When a job that is accepted now would go: a prediction by its lane's own pace, holds, and those ``ahead`` of it.

    ``at`` None: not before the grant's owner has signed in again. ``or_later``: so many are ahead that not all of them
    were counted.
    """

    at: datetime | None
    ahead: int
    or_later: bool = False


@dataclass(frozen=True, slots=True)
class BatchError:
    """A dead letter of a batch: which job, which message (None: a page of its walk), why, and what the API said."""

    job_id: str
    object_id: str | None
    operation: str
    rule: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class WalkView:
    """How a batch finds its messages.

    ``state``: ``listing``; ``making`` (jobs of what was found); ``done``; ``stopped`` (a page was given up, cancelled
    or expired; the batch's errors say why, and a retry of its dead letters walks on). ``pages`` were listed, and
    ``found`` messages on them; ``listed`` of ``listings`` are over (a query is one listing, and so is each thread).
    """

    state: str
    pages: int
    found: int
    listings: int
    listed: int


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch and how far it is.

    ``total`` is None until a walk has found its messages. ``counts`` has the states that an end (or doubt) has put jobs
    in. ``rate`` is in jobs a second over the last minute; ``eta`` follows from it, from holds and from the lane's own
    pace, and is None where it cannot be told (during a walk, and while the lane is closed). ``errors`` are the first
    dead letters, at most ten. ``finished_at``: its last job has ended; a retry of its dead letters opens it again.
    """

    id: str
    operation: str
    application: str | None
    grant_id: str | None
    total: int | None
    counts: Mapping[State, int]
    created_at: datetime
    walk: WalkView | None = None
    rate: float = 0.0
    eta: datetime | None = None
    errors: Sequence[BatchError] = ()
    cancelled_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def waiting(self) -> int:
        """Jobs without an end yet, those on the wire among them; during a walk, what it has found so far."""
        known = self.total if self.total is not None else self.walk.found if self.walk is not None else 0
        return known - sum(self.counts.values())

    @property
    def progress(self) -> float:
        """The share of jobs that have come to an end, from 0 to 1; 0 while the total is not known."""
        if self.total is None:
            return 0.0
        return 1 - self.waiting / self.total if self.total else 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self)) | {"waiting": self.waiting, "progress": self.progress}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with datetimes as ISO 8601 and enums as their values."""

    def one(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, Priority):
            return value.name.lower()
        if isinstance(value, Mapping):
            return {str(key): one(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [one(item) for item in value]
        return value

    return {key: one(value) for key, value in values.items()}
