"""A turn: what the dispatcher offers, what a worker claims, and what it has committed.

Turn ─▶ Claimed ─▶ Begin, Outcome, Shrink, End ─▶ Group ─▶ Recorded
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Outcome
from sendq.rules.budgets import Budget
from sendq.rules.pace import Pacer


@dataclass(frozen=True, slots=True)
class Turn:
    """An offered turn: the lane, the fence that identifies this turn of it, and its calls at once."""

    lane_id: UUID
    fence: int
    slots: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that this worker claimed: its lane as it was then, and its jobs in the order in which they may begin."""

    lane: Lane
    jobs: Sequence[ClaimedJob]
    begun: frozenset[UUID]
    worker: UUID  # its owner; a worker that was presumed dead goes on under another id
    slots: int  # how many calls it may make at once
    pacer: Pacer  # of its lane, with the begun jobs charged
    starts: Mapping[UUID, Micros]  # when each of the begun jobs may start
    streak: int = 0  # holds of its pair or application since the last success of the pair
    foreign: frozenset[str] = frozenset()  # operations of a newer version; their jobs are left to its workers
    budgets: Mapping[UUID, tuple[Budget, ...]] = field(default_factory=dict)  # by job, those that count it


@dataclass(slots=True)
class Unopened:
    """What a claim did not begin because of its encryption."""

    missing: Counter[str] = field(default_factory=Counter)  # jobs that wait, by the name of the key that is missing
    unencrypted: int = 0  # jobs that wait
    altered: list[UUID] = field(default_factory=list)  # jobs that ended, or are in doubt
    altered_lanes: list[UUID] = field(default_factory=list)  # held: application or grant are not those of their id

    def add(self, other: Unopened) -> None:
        """Add what another claim did not begin."""
        self.missing += other.missing
        self.unencrypted += other.unencrypted
        self.altered += other.altered
        self.altered_lanes += other.altered_lanes

    def __bool__(self) -> bool:
        return bool(self.missing or self.unencrypted or self.altered or self.altered_lanes)


@dataclass(frozen=True, slots=True)
class Begin:
    """A turn of a worker wants to make the call for this job next, if its key and its content are those loaded."""

    lane_id: UUID
    fence: int
    worker: UUID
    job_id: UUID
    generation: int
    content_version: int
    budgets: tuple[Budget, ...] = ()  # those that count it


@dataclass(frozen=True, slots=True)
class End:
    """A turn is over: what it used and learned of the lane's pace.

    ``used`` and ``ready_at`` are the `sendq.rules.pace.Pacer`'s; None keeps what the ledger has.
    """

    lane_id: UUID
    fence: int
    worker: UUID
    ready_at: Micros
    ramp: int
    used: str | None = None
    successes: int = 0


@dataclass(frozen=True, slots=True)
class Shrink:
    """A turn that begins no more calls and waits for slow ones: it holds only this many slots from now on."""

    lane_id: UUID
    fence: int
    worker: UUID
    slots: int


@dataclass(frozen=True, slots=True)
class Group:
    """What is committed together. ``proven``: pairs that work, each with the time when a successful call began."""

    outcomes: Sequence[Outcome] = ()
    begins: Sequence[Begin] = ()
    ends: Sequence[End] = ()
    shrinks: Sequence[Shrink] = ()
    proven: Mapping[tuple[str, str], Micros] = field(default_factory=dict)

    def lane_ids(self) -> set[UUID]:
        """The lanes that it touches."""
        return {item.lane_id for items in (self.outcomes, self.begins, self.ends, self.shrinks) for item in items}


@dataclass(slots=True)
class Recorded:
    """The result of a group: the jobs whose requests may be sent, and facts that came too late for their turn."""

    begun: set[UUID] = field(default_factory=set)
    late: list[Outcome] = field(default_factory=list)
    sent_twice: list[Outcome] = field(default_factory=list)
    incidents: list[Outcome] = field(default_factory=list)  # whose holds above a grant began a new incident
    given_up: list[Outcome] = field(default_factory=list)  # waiting jobs that the success of another has ended
    ramps: dict[tuple[str, str], int | None] = field(default_factory=dict)  # of the pairs that were proven
    paused: set[str] = field(default_factory=set)  # applications whose API key has to be checked first
    wants_turns: bool = False  # whether a lane of the group wants another turn, now or later
