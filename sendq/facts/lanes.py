"""A lane as it was read, and the wake rows that notify the dispatcher of its new jobs.

Named tuples, because thousands are made a second; one field for each column of the table.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from sendq.clock import Micros

# The provider of a pair that represents a whole application.
WHOLE_APPLICATION: Final = "*"

# The provider of a grant that nobody has named yet. Such grants have nothing in common, so they are not held together.
UNKNOWN: Final = "unknown"

# The columns where scans for waiting jobs begin, by priority: no waiting job is before its floor.
FLOORS: Final = ("high_floor", "normal_floor", "low_floor")
Floors = tuple[Micros, Micros, Micros]


class Lane(NamedTuple):
    """A row of ``sendq_lane``; what its columns mean is in `sendq.ledger.db.schema`."""

    id: UUID
    application: str
    grant_id: str
    provider: str
    created_at: Micros
    next_at: Micros | None
    high_floor: Micros
    normal_floor: Micros
    low_floor: Micros
    fence: int
    turn: str | None
    turn_at: Micros | None
    turn_worker: UUID | None
    turn_slots: int
    served_at: Micros | None
    width: int
    ramp: int
    pace: str | None
    used: str | None
    ready_at: Micros
    spacing: Micros
    spacing_until: Micros
    stretch: Micros
    ask_at: Micros | None
    held_until: Micros | None
    held_since: Micros | None
    held_rule: str | None
    held_by: str | None
    streak: int
    closed_at: Micros | None
    closed_rule: str | None
    suspected: bool
    announced_at: Micros | None
    check_at: Micros | None
    checks: int
    refused: int
    refused_jobs: str | None
    opened_at: Micros | None
    gone: bool
    time_window: str | None = None
    warm_up: str | None = None

    @property
    def pair(self) -> tuple[str, str]:
        """Its application and provider."""
        return self.application, self.provider

    @property
    def floors(self) -> Floors:
        """Where scans for waiting jobs begin, by priority."""
        return self.high_floor, self.normal_floor, self.low_floor

    @property
    def is_offered(self) -> bool:
        """Whether it has an open turn that no worker has claimed yet."""
        return self.turn == "offered"

    @property
    def is_claimed(self) -> bool:
        """Whether a worker is carrying out its turn."""
        return self.turn == "claimed"

    @property
    def is_closed(self) -> bool:
        """Whether it gets no turn until its grant is authorised again."""
        return self.closed_at is not None


class Pair(NamedTuple):
    """A row of ``sendq_pair``: one provider of one application, or `WHOLE_APPLICATION`."""

    application: str
    provider: str
    ramp: int | None
    proven_at: Micros | None
    streak: int
    held_until: Micros | None
    held_since: Micros | None
    held_rule: str | None
    held_by: str | None


class Wake(NamedTuple):
    """A row of ``sendq_wake``: when the first of some new jobs of a lane are due, by priority (None: no job)."""

    id: int
    lane_id: UUID
    application: str
    grant_id: str
    provider: str | None
    high_at: Micros | None
    normal_at: Micros | None
    low_at: Micros | None
    lane_exists: bool
