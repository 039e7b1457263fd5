"""The ledger in bounded numbers, for a page that is read every few seconds; what a search finds; batches in a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sendq.rules.states import State
from sendq.views.grants import HoldView
from sendq.views.page import plain
from sendq.views.status import Approvals, Backlog, BrokerView, BudgetView, Shut, WorkerView

# Jobs are counted up to here: an index scan of some milliseconds.
COUNT_MOST = 10_000

# Batches, grants and jobs that one search shows.
FOUND_MOST = 20


@dataclass(frozen=True, slots=True)
class Overview:
    """What waits and what moves, in numbers that cost the same on a ledger of any size.

    jobs         queued, sending, in doubt and dead; from `COUNT_MOST` on an estimate, or "at least"
    enqueued     jobs of the last minute, counted up to `COUNT_MOST`
    calls        of the last minute, by what they led to (``done``, or a route of the policy)
    oldest_s     by priority, how long the oldest job has waited that no hold, closed lane or pace delays, in seconds
    turn_wait_s  how long the lane that has waited longest has been due for a turn, in seconds
    lanes        by state: ``closed``, ``held``, ``served`` (in a turn), ``waiting`` (for one), ``idle``
    holds        those of applications, providers and tags that are in force
    clock_behind_s  how far the clock is behind the latest time that a worker has seen, in seconds
    approvals    jobs that wait for approval
    budgets      budgets of which some is used in the current window
    """

    at: datetime
    shut: Shut | None
    broker: BrokerView
    jobs: Mapping[State, int]
    enqueued: int
    calls: Mapping[str, int]
    oldest_s: Mapping[str, float]
    turn_wait_s: float
    lanes: Mapping[str, int]
    holds: tuple[HoldView, ...]
    workers: tuple[WorkerView, ...]
    deliveries: Backlog
    clock_behind_s: float
    approvals: Approvals
    budgets: tuple[BudgetView, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class FoundGrant:
    """A grant that a search found, with its application."""

    application: str
    grant_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What has the id, key or message id that was searched for: ids of jobs and batches, and grants."""

    jobs: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    grants: tuple[FoundGrant, ...] = ()

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.jobs) + len(self.batches) + len(self.grants)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A batch in a list.

    ``total`` is None until a walk has found its messages; while the batch is ``open``, it is the number of those added
    so far. ``counts``: its jobs by final state, and in doubt. ``grant_id`` is None if it has jobs of several grants.
    """

    id: str
    operation: str
    application: str | None
    grant_id: str | None
    total: int | None
    counts: Mapping[State, int]
    created_at: datetime
    cancelled_at: datetime | None
    finished_at: datetime | None
    open: bool

    @property
    def ended(self) -> int:
        """How many of its jobs have ended."""
        return sum(number for state, number in self.counts.items() if state is not State.IN_DOUBT)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))


@dataclass(frozen=True, slots=True)
class PaceView:
    """How fast a grant's calls may go.

    at_once      calls at once now; after a hold it grows again, up to ``width``
    limits       the provider's limits that it keeps: name, units, and their window in seconds
    daily        messages in 24 hours; None: as many as the limits allow
    apart_s      least time between two calls that throttling has taught, in seconds; 0: none
    modify_apart_s  least time between two modifications, in seconds; 0: none
    next_at      when the pace allows the next start, if later than now
    """

    at_once: int
    width: int
    limits: tuple[tuple[str, int, float], ...]
    daily: int | None
    apart_s: float
    modify_apart_s: float
    next_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        return plain(asdict(self))
