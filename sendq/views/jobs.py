"""Jobs: what an enqueue returns, one job with its attempts, lists of jobs, and why one waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from sendq.rules.states import State
from sendq.rules.waiting_job import waits_for_approval
from sendq.views.delivery import DeliveryStatus
from sendq.views.page import plain


class Priority(IntEnum):
    """Which jobs of a lane go first. A password reset is high, a newsletter low."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Job:
    """What an enqueue returns. ``existed``: the key already named this job, and nothing new was stored. ``dropped``:
    the positions of suppressed recipients that were left out (``to[1]``), if the caller wanted that.
    """

    id: str
    existed: bool = False
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replacement(Job):
    """The job of a replaced message. ``replaced``: False if the job has this message already; ``content_version``: what
    it has now. With ``dry_run``, ``replaced`` says what would be done, and nothing was.
    """

    replaced: bool = True
    content_version: int = 0


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
    """A job as the ledger has it now, with its attempts (``trail``), the oldest first.

    ``attempts``: how many are used up. The call that succeeded and each failure that a rule's limit of attempts counts
    use up one; a hold, a failure that ends the job at once, and an answer repeated for the same key use up none. It
    starts again at 0 when a person retries the job; ``trail`` has every attempt.

    ``delivery``: what became of its mail; None: it is no mail, or was not sent. ``key``: the one that it was enqueued
    with; a batch's is that of the batch. ``next_at``: when it may next begin; None: a person holds it, or it waits for
    approval or for another job. ``approve_by``: until when it may wait for approval; None: it needs none.
    ``approved_at``: None: not yet. ``held``: a person holds it; False once it has ended. ``window``: its own, as
    `Window` is written. ``content_version``: how often its message was replaced; 0: it is the one that was enqueued.

    ``application`` and ``grant_id`` are None until the dispatcher has seen the job's lane.
    """

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
    next_at: datetime | None
    expires_at: datetime | None
    finished_at: datetime | None
    attempts: int
    rule: str | None
    key: str | None
    message_id: str | None
    trail: tuple[AttemptView, ...]
    tags: Mapping[str, str]
    delivery: DeliveryStatus | None = None
    approve_by: datetime | None = None
    approved_at: datetime | None = None
    held: bool = False
    window: str | None = None
    content_version: int = 0

    @property
    def waits_for_approval(self) -> bool:
        """Whether it may be approved or rejected."""
        return self.state is State.QUEUED and waits_for_approval(self)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list. ``attempts``, ``next_at``, ``approve_by``, ``approved_at`` and ``content_version``: as in
    `JobView`.

    ``application`` and ``grant_id`` are None until the dispatcher has seen the job's lane.
    """

    id: str
    state: State
    operation: str
    priority: Priority
    application: str | None
    grant_id: str | None
    batch_id: str | None
    created_at: datetime
    due_at: datetime
    next_at: datetime | None
    expires_at: datetime | None
    finished_at: datetime | None
    attempts: int
    rule: str | None
    key: str | None
    tags: Mapping[str, str]
    approve_by: datetime | None = None
    approved_at: datetime | None = None
    content_version: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The number of jobs in each state. ``more``: there are more, because counting stops at 100,000."""

    states: Mapping[State, int]
    more: bool

    @property
    def number(self) -> int:
        """All of them."""
        return sum(self.states.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self)) | {"number": self.number}


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """A job as a test of an application sees it (`sendq.testing`), with what its request contains.

    operation    ``send``, ``modify`` or ``delete``; the job that searches for a batch's messages has the batch's
    key          the one that it was enqueued with; a batch's is that of the batch
    object_id    the message or thread that is changed; None: a send, or a search
    body         the fields of the request, by their names in the API, without attachments: a message with its mark, or
                 the changes; None: it was deleted
    attachments  the names of the attached files
    """

    id: str
    state: State
    operation: str
    application: str
    grant_id: str
    key: str | None
    batch_id: str | None
    object_id: str | None
    priority: Priority
    due_at: datetime
    expires_at: datetime | None
    body: Mapping[str, Any] | None
    attachments: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def to(self) -> tuple[str, ...]:
        """The addresses in the field ``to`` of a message."""
        return tuple(one["email"] for one in (self.body or {}).get("to", ()))

    @property
    def subject(self) -> str | None:
        """The subject of a message; None: it has none, or is no message."""
        return (self.body or {}).get("subject")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter in a list; ``status`` (HTTP) and ``error`` are those of its last attempt.

    ``attempts``: those used up, as in `JobView`; 0 for a job that its first failure ended.
    """

    id: str
    rule: str | None
    operation: str
    application: str | None
    grant_id: str | None
    batch_id: str | None
    created_at: datetime
    given_up_at: datetime
    attempts: int
    status: int | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class DeadLetterCount:
    """The dead letters of one rule: how many, and when the first and the last of them were given up.

    ``provider``, ``application``: of which, if they are counted for each; else None.
    """

    rule: str | None
    number: int
    oldest: datetime
    newest: datetime
    provider: str | None = None
    application: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Doubt:
    """A job in doubt: it may have been sent, and the mailbox is searched for it.

    doubt_at     when its last request with an unknown outcome began
    rule         what put it in doubt
    look_at      the next search; None: not planned yet
    looks        searches so far that could count as proof; ``misses``: those that proved its absence
    seen         the result of the last search; None: there was none
    in_doubt     what happens if it is not found (wait, resend, dead); None: the workers' setting
    cancel_at    when it was cancelled: it ends as cancelled if it was not sent
    """

    id: str
    operation: str
    rule: str | None
    application: str | None
    grant_id: str | None
    batch_id: str | None
    created_at: datetime
    doubt_at: datetime | None
    look_at: datetime | None
    looks: int | None
    misses: int | None
    seen: str | None
    in_doubt: str | None
    cancel_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job is in its state: ``reason`` for programs, ``says`` for people; ``until``: when the wait ends, if known.

    ``by`` is who made the hold that it waits for (``policy``, or a person), ``note`` the person's reason for it.
    ``ahead`` counts the jobs of its lane that go first, up to 10,000. ``eta``: about when it starts, if only its lane's
    pace, holds and the jobs ahead delay it; None if a budget may, too. ``expires_at``: it expires then, before
    ``until`` or ``eta``, or while it waits for something whose end is not known.
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
    eta: datetime | None = None
    expires_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Eta:
    """When a job accepted now would start: an estimate from its lane's pace, the holds over it and the jobs ``ahead``.

    A wait for approval or for another job is not counted.

    ``at`` None: not before the grant's owner has signed in again. ``or_later``: more jobs are ahead than were counted.
    ``expires_at``: when a send enqueued now would expire by default, if that is before ``at`` or ``at`` is None.
    """

    at: datetime | None
    ahead: int
    or_later: bool = False
    expires_at: datetime | None = None
