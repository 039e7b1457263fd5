"""Filters that all lists share, and their SQL conditions.

``application``, ``provider`` and ``grant`` are those of a lane: rows whose lane the dispatcher has not seen yet (a job
enqueued a moment ago) are found only by their grant.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select

from sendq.clock import Micros
from sendq.ids import first_id, lane_id
from sendq.ledger.db import schema
from sendq.scope import grant_pattern, matches_grant


@dataclass(frozen=True, slots=True)
class LaneFilter:
    """Which lanes: those of an application, of a provider, or the one of a grant (which belongs to an application)."""

    application: str | None = None
    provider: str | None = None
    grant: str | None = None

    @property
    def lane_id(self) -> UUID | None:
        """The lane of the grant; None: no grant was named."""
        return None if self.grant is None or self.application is None else lane_id(self.application, self.grant)

    def conditions(self, lane_column: ColumnElement[UUID]) -> list[ColumnElement[bool]]:
        """Conditions for rows that name a lane in ``lane_column`` and are joined with the table of lanes."""
        if self.lane_id is not None:
            named = [lane_column == self.lane_id]
            return named if self.provider is None else [*named, schema.lane.c.provider == self.provider]
        pairs = ((schema.lane.c.application, self.application), (schema.lane.c.provider, self.provider))
        return [column == value for column, value in pairs if value is not None]


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """The grants of an application that a caller may see: some by their ids, others by patterns (``team-*``)."""

    application: str
    grant_ids: Collection[str] = ()
    patterns: Collection[str] = ()

    @classmethod
    def of(cls, application: str, patterns: Collection[str]) -> GrantFilter:
        """Patterns, of which those without ``*`` are ids."""
        ids = [pattern for pattern in patterns if "*" not in pattern]
        return cls(application, ids, [pattern for pattern in patterns if "*" in pattern])

    def covers(self, grant_id: str) -> bool:
        """Whether the caller may see a grant."""
        return grant_id in self.grant_ids or any(matches_grant(pattern, grant_id) for pattern in self.patterns)

    def condition(self) -> ColumnElement[bool]:
        """For jobs that are joined with the table of lanes. Only ids find jobs that the dispatcher has not seen yet."""
        lane = schema.lane.c
        named = schema.job.c.lane_id.in_([lane_id(self.application, grant_id) for grant_id in self.grant_ids])
        alike = [lane.grant_id.regexp_match(grant_pattern(pattern)) for pattern in self.patterns]
        return or_(named, and_(lane.application == self.application, or_(*alike))) if alike else named


@dataclass(frozen=True, slots=True)
class Period:
    """From ``since`` on, and before ``until``; None: no limit."""

    since: Micros | None = None
    until: Micros | None = None

    def of_ids(self, column: ColumnElement[UUID]) -> list[ColumnElement[bool]]:
        """Conditions for rows whose ids sort by creation time."""
        conditions = [] if self.since is None else [column >= first_id(self.since)]
        return conditions if self.until is None else [*conditions, column < first_id(self.until)]

    def of_times(self, column: ColumnElement[Micros]) -> list[ColumnElement[bool]]:
        """Conditions for rows with a time."""
        conditions = [] if self.since is None else [column >= self.since]
        return conditions if self.until is None else [*conditions, column < self.until]


ANYWHERE = LaneFilter()
ALWAYS = Period()


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: those that match every given field. What ``period`` is about depends on who asks."""

    scope: LaneFilter = ANYWHERE
    rule: str | None = None
    batch_id: UUID | None = None
    period: Period = ALWAYS
    tag: str | None = None

    def conditions(self, *, without: Collection[str] = ()) -> list[ColumnElement[bool]]:
        """All but the period and those ``without`` (rule, batch_id, tag), for jobs joined with the table of lanes."""
        job = schema.job.c
        pairs = {"rule": self.rule, "batch_id": self.batch_id}
        equal = [job[name] == value for name, value in pairs.items() if value is not None and name not in without]
        if self.tag is not None and "tag" not in without:
            equal.append(job.id.in_(select(schema.job_tag.c.job_id).where(schema.job_tag.c.tag == self.tag)))
        return [*self.scope.conditions(job.lane_id), *equal]


EVERY_JOB = JobFilter()
