"""What an application and an operator see of the ledger: frozen snapshots, with datetimes in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from sendq.states import State


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
    """The same for a bulk call, with the number of its jobs."""

    id: str
    total: int
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
    """Why a job is where it is: ``reason`` for programs, ``says`` for people, ``until`` if a time ends it."""

    job_id: str
    state: State
    reason: str
    says: str
    until: datetime | None = None
    rule: str | None = None
    by: str | None = None
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
class BatchView:
    """A batch and how far it is. ``counts`` has the states that an end (or doubt) has put jobs in."""

    id: str
    operation: str
    application: str | None
    grant_id: str | None
    total: int
    counts: Mapping[State, int]
    created_at: datetime

    @property
    def waiting(self) -> int:
        """Jobs without an end yet, those on the wire among them."""
        return self.total - sum(self.counts.values())

    @property
    def progress(self) -> float:
        """The share of jobs that have come to an end, from 0 to 1."""
        return 1 - self.waiting / self.total

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
