"""Everything that decides when one job starts: the input of `sendq.rules.why`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sendq.clock import Micros
from sendq.facts.lanes import Lane
from sendq.rules.budgets import UsedUp
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import TAG_HELD
from sendq.rules.waiting_job import is_held, waits_for_approval


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The job in question. In doubt: ``seen`` is the last search's result, ``look_at`` the time of the next."""

    id: UUID
    state: str
    operation: str
    form: str | None
    next_at: Micros
    attempts: int
    doubt_at: Micros | None
    rule: str | None
    seen: str | None
    look_at: Micros | None
    expires_at: Micros | None = None
    resume_at: Micros | None = None  # when it may begin once it is released, and approved if it needs that
    due_at: Micros = 0
    approve_by: Micros | None = None
    approved_at: Micros | None = None
    time_window: str | None = None
    content_version: int = 0

    @property
    def not_before(self) -> Micros:
        """When it may begin, if none of its tags is held and its window is open."""
        return self.due_at if self.rule == TAG_HELD else self.next_at

    @property
    def waits_for_approval(self) -> bool:
        """Whether it needs approval and has none."""
        return waits_for_approval(self)

    @property
    def is_held(self) -> bool:
        """Whether a person holds it; it may wait for approval, too."""
        return is_held(self)


@dataclass(frozen=True, slots=True)
class HoldFacts:
    """A hold over the job. ``scope``: application, provider, grant, or its tag; ``note``: the operator's reason."""

    scope: str
    until: Micros
    rule: str | None
    by: str | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class HeldBy:
    """The person or program that holds a job, or its batch."""

    by: str
    reason: str | None
    batch_id: UUID | None


@dataclass(frozen=True, slots=True)
class EarlierChange:
    """An earlier change of the same message that must be made before this one."""

    id: UUID
    state: str
    next_at: Micros


@dataclass(frozen=True, slots=True)
class Follows:
    """How the job follows another (`sendq.rules.after`).

    ``state``: of that one, None: it was pruned; ``failed_by``: the rule that ended it; ``trouble``: why the thread of
    its mail could not be read, or the reply not completed.
    """

    after_id: UUID
    state: str | None
    failed_by: str | None
    delay: Micros
    unless: str | None
    check_at: Micros | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Situation:
    """The job and what surrounds it, read in one transaction.

    lane              None: the dispatcher has not seen a job for this grant yet
    holds             of its application, its provider and its grant, the widest first; some may be over
    ahead             waiting jobs of its lane that go before it
    workers           registered ones that are not stopping
    dispatcher_until  when the leader's lease ends
    sealed_with       the name of the encryption key of its body; None: it is not encrypted
    shut_at           since when the ledger is shut; None: it is not
    shut_because      why: ``lost`` or ``unproven``
    highest_at        the highest time that a worker has seen
    unpublished_since since when publishing to the broker fails; None: it works
    unclaimed_since   since when no worker claims the turns that are offered; None: some do
    failing_since     since when rounds of dispatchers fail; None: they do not
    delivery          what became of its mail; None: it is no mail, or was not sent
    tag_holds         of its tags; some may be over
    held              who holds the job itself, and why; None: it is not held, or that is no longer known
    before            the last of the earlier changes of its message that have not ended
    follows           the job that it waits for, or that ended it; None: there is none
    used_up           budgets of its application and tags that were used up when it was put off
    room              how many more sends may begin in the current windows of these; None: no limit is known
    """

    job: JobFacts
    lane: Lane | None
    holds: tuple[HoldFacts, ...]
    ahead: int
    workers: int
    dispatcher_until: Micros
    sealed_with: str | None
    shut_at: Micros | None
    shut_because: str | None
    highest_at: Micros
    before: EarlierChange | None
    unpublished_since: Micros | None = None
    unclaimed_since: Micros | None = None
    failing_since: Micros | None = None
    delivery: Delivery | None = None
    tag_holds: tuple[HoldFacts, ...] = ()
    held: HeldBy | None = None
    follows: Follows | None = None
    used_up: tuple[UsedUp, ...] = ()
    room: int | None = None
