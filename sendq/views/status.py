"""The whole ledger at a glance, and the deliveries of outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sendq.rules.states import State
from sendq.views.grants import HeldGroup, HoldView
from sendq.views.page import plain

# Counts of the waiting jobs of a state and of the deliveries of a backlog stop here, to stay cheap.
JOBS_MOST = 100_000
DELIVERIES_MOST = 10_000

# The span over which calls are counted, in seconds.
CALLS_S = 60


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """Lanes by state: ``served`` are in a turn, ``waiting`` want one; the rest of ``total`` is idle."""

    total: int
    served: int
    waiting: int
    held: int
    closed: int


# A worker without a heartbeat for this long is marked: with the default settings it is declared dead after 8 s.
SILENT_S = 15.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker process as registered.

    ``capacity`` is the number of calls that it makes at once, ``silent_s`` the time since its last heartbeat that the
    ledger has, in seconds: above `SILENT_S` it is dead, or cannot write to the ledger.
    """

    id: str
    name: str
    pid: int
    version: str
    started_at: datetime
    beat_at: datetime
    capacity: int
    stopping: bool
    leads: bool
    silent_s: float

    @property
    def is_silent(self) -> bool:
        """Whether it has sent no heartbeat for longer than `SILENT_S`."""
        return self.silent_s > SILENT_S


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing has been sent since ``since``: the ledger does not know what happened after ``known_until``.

    ``because``: ``lost``, a part of its history is missing; ``unproven``, a part may be missing.
    """

    since: datetime
    because: str
    known_until: datetime
    says: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Outcomes that are still to be delivered.

    ``waiting`` and ``given_up`` are counted up to 10,000, and ``oldest_s`` (the age of the oldest waiting one) is then
    a lower bound. ``failing``: receivers whose last request failed and that have waiting deliveries.
    """

    waiting: int
    oldest_s: float
    given_up: int
    failing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrokerView:
    """Why turns do not reach workers, as far as the ledger knows.

    ``unpublished_since``: turns cannot be published; ``unclaimed_since``: no worker claims them; ``failing_since``:
    the dispatcher fails unexpectedly, so that there may be none. None: it works.
    """

    unpublished_since: datetime | None
    unclaimed_since: datetime | None
    failing_since: datetime | None = None


# Jobs that wait for approval are counted up to here.
APPROVALS_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Approvals:
    """Jobs that wait for approval, up to `APPROVALS_MOST`; ``first_end``: when the first of them is given up."""

    waiting: int = 0
    first_end: datetime | None = None


@dataclass(frozen=True, slots=True)
class BudgetView:
    """A budget in its current window, which ends at ``until``; ``tag``: None means the whole application.

    ``per``: minute, hour or day; ``used``: sends that began; ``over``: whether others had to wait for the next window.
    """

    application: str
    tag: str | None
    most: int
    per: str
    used: int
    over: bool
    until: datetime


@dataclass(frozen=True, slots=True)
class Status:
    """The ledger at a glance.

    jobs         by state, every state; 100,000 in a state that is not final means "at least"
    held         what is held or closed, by rule and provider
    holds        all those of applications and providers, then those of grants, the latest first, up to a limit
    turn_wait_s  how long the lane that has waited longest has been due for a turn, in seconds
    oldest_s     by priority, how long the oldest job has waited that no hold, closed lane or pace delays, in seconds
    calls        of the last minute, by what they led to (``done``, or a route of the policy)
    clock_behind_s  how far the clock is behind the latest time that a worker has seen, in seconds: it was set back
    approvals    jobs that wait for approval
    outside_window  jobs that wait for the next opening of a window, up to 100,000; the first is at ``next_opening``
    budgets      budgets of which some is used in the current window
    """

    at: datetime
    shut: Shut | None
    jobs: Mapping[State, int]
    lanes: LaneCounts
    holds: tuple[HoldView, ...]
    workers: tuple[WorkerView, ...]
    turn_wait_s: float
    oldest_s: Mapping[str, float]
    calls: Mapping[str, int]
    deliveries: Backlog
    broker: BrokerView
    clock_behind_s: float = 0.0
    held: tuple[HeldGroup, ...] = ()
    approvals: Approvals = Approvals()
    outside_window: int = 0
    next_opening: datetime | None = None
    budgets: tuple[BudgetView, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """The delivery of one outcome to one receiver.

    ``subject`` is the id of the job, batch or grant that it is about; ``target`` is the one named at enqueue; ``facts``
    is what is delivered. ``next_at``: the next try, None once it is delivered or given up.
    """

    id: str
    kind: str
    subject: str
    receiver: str
    target: str
    state: str
    tries: int
    created_at: datetime
    next_at: datetime | None
    tried_at: datetime | None
    done_at: datetime | None
    error: str | None
    facts: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))
