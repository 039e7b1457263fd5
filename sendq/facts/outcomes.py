"""What happened to a job: the attempt, the outcome, the hold an answer asks for, the page a listing returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sendq.clock import Micros
from sendq.rules.states import Event


class Scope(StrEnum):
    """What a decision or a hold applies to."""

    JOB = "job"
    GRANT = "grant"
    PROVIDER = "provider"  #        all grants of one provider in one application
    APPLICATION = "application"


class Sent(StrEnum):
    """Whether the message may have gone out (for a modification: whether it may have been made)."""

    NO = "no"
    MAYBE = "maybe"
    PARTLY = "partly"  #            some recipients have it: never send it again
    YES = "yes"


@dataclass(frozen=True, slots=True)
class Hold:
    """No calls for a scope until a time. ``until`` None closes the lane: its grant must be authorised again.

    by         who made the hold: ``policy``, or an operator's name
    suspected  closed, but the API is asked about the grant before its owner is notified
    gone       closed for good: the grant no longer exists
    missing    suspected of being gone: its jobs end only if another grant shows that the API key is the right one
    identify   the provider is at fault, but nobody knows which one it is: the grant is held until the API names it
    """

    scope: Scope
    rule: str
    by: str
    until: Micros | None
    suspected: bool = False
    gone: bool = False
    missing: bool = False
    identify: bool = False

    @property
    def above_grant(self) -> bool:
        """Whether it concerns more than one grant."""
        return self.scope is not Scope.GRANT


class Attempt(NamedTuple):
    """A row of ``sendq_attempt``: one call for a job, and its result.

    status      of HTTP; None: no answer came
    route       of the policy; None: accepted
    sent        whether the message may have gone out
    error       redacted and truncated; contains no address
    """

    id: UUID
    job_id: UUID
    generation: int
    worker_id: UUID | None
    begun_at: Micros
    ended_at: Micros
    status: int | None
    rule: str
    route: str | None
    sent: str
    error_type: str | None = None
    error: str | None = None
    request_id: str | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What one listing returned: at most a page of ids, and the request for the next page (None: it was the last).

    ``states``: of these messages, in the form of `sendq.rules.message_state`, if the batch keeps them.
    """

    found: Sequence[str]
    following: bytes | None
    content_type: str
    states: Sequence[bytes] = ()


class Outcome(NamedTuple):
    """The outcome of one begun job. ``attempt`` is None if no call was made."""

    id: UUID
    lane_id: UUID
    fence: int
    job_id: UUID
    operation: str
    event: Event
    rule: str
    next_at: Micros
    attempt: Attempt | None = None
    counts: bool = False  # whether it uses up one of the job's attempts
    sent: str = Sent.NO
    new_generation: bool = False
    refused: bool = False  # in doubt although its request was answered: refused, and its key keeps that answer
    message_id: str | None = None
    page: Page | None = None  # what a listing has found
    state: bytes | None = None  # of the message, before its change (read) or after it, to be kept
    batch_id: UUID | None = None  # of a job of a batch
    conflict: bool = False  # the API was still working on an earlier request with this key
    died: bool = False  # the job's own process died
    hold: Hold | None = None
    width: int | None = None  # the lane's calls at once from now on; None: unchanged
    spacing: Micros | None = None  # least time between modifications, until the lane goes unthrottled for a while
    throttled: bool = False  # by an unpublished limit: its calls are spaced further apart
    begun_at: Micros = 0
    # For logs, metrics and events; not stored.
    application: str = ""
    provider: str = ""
    grant_id: str = ""
    wanted_at: Micros = 0  # when the job could have begun; the difference is its time in the queue
    attempts: int = 0  # used up before this one
    traceparent: str | None = None  # of the span that enqueued the job
    tags: str | None = None  # of the job, in the form of `sendq.rules.tags.stored_tags`

    @property
    def is_replayed(self) -> bool:
        """Whether the answer is the API's stored one to an earlier request with this key."""
        return self.attempt is not None and self.attempt.replayed
