"""Checks the arguments of an act: who, why, when, and which jobs. Raises `InvalidArgument` with every problem."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sendq.clock import Micros, micros, moment, seconds
from sendq.enqueueing.arguments import check_grant
from sendq.errors import InvalidArgument, Problem
from sendq.filter_checks import job_filter, members_of, name_of, period_of, scope_of
from sendq.filters import DeadLetterFilter, DoubtFilter, GrantFilter, UnfinishedFilter
from sendq.ids import lane_id, parse_id
from sendq.ledger.reading.filters import JobFilter
from sendq.ledger.reading.grants import GrantQuery
from sendq.views import GrantState

# A longer hold is a mistake (hours for seconds), and near the end of the calendar adding to a time fails.
LONGEST_HOLD = timedelta(days=366)

# The longest time from one to the next of many: a thousand of them then take six weeks.
SPACING_MOST_S = 3_600


def hold_end(until: datetime, *, now: Micros) -> Micros:
    """The end of a hold that begins now."""
    end = instant("until", until)
    if not now < end <= micros(moment(now) + LONGEST_HOLD):
        refuse([Problem("until", f"is not within the next {LONGEST_HOLD.days} days", "give a time within them")])
    return end


def instant(field: str, at: datetime) -> Micros:
    """An aware datetime in microseconds."""
    if not isinstance(at, datetime) or at.tzinfo is None:
        refuse([Problem(field, "is not an aware datetime", "give one with its time zone")])
    return micros(at)


def job_ids(ids: Sequence[str]) -> list[UUID]:
    """The ids of jobs; at least one. Raises `NotFound` for an invalid id."""
    return _ids(ids, field="jobs", what="job")


def delivery_ids(ids: Sequence[str]) -> list[UUID]:
    """The ids of deliveries; at least one. Raises `NotFound` for an invalid id."""
    return _ids(ids, field="deliveries", what="delivery")


def _ids(ids: Sequence[str], *, field: str, what: str) -> list[UUID]:
    if isinstance(ids, str):
        raise TypeError(f"{field}: give a list of ids, or a filter")
    if not ids:
        refuse([Problem(field, "is empty", f"give at least one {what}'s id, or a filter")])
    return [parse_id(one, what=what) for one in ids]


def job_filter_of(which: UnfinishedFilter | DeadLetterFilter | DoubtFilter) -> JobFilter:
    """A filter of jobs, checked. Raises `NotFound` for a batch's id that is none."""
    batch = None if which.batch_id is None else parse_id(which.batch_id, what="batch")
    lanes = (which.application, which.provider, which.grant_id)
    return job_filter(*lanes, which.rule, batch, which.since, which.until, which.tag)


def grant_query_of(which: GrantFilter, states: Collection[GrantState]) -> GrantQuery:
    """A filter of grants, checked; ``states``: those that the act takes unless the filter names some."""
    return GrantQuery(
        scope=scope_of(which.application, which.provider, which.grant_id),
        states=members_of("states", which.states or None, GrantState) or states,
        rule=name_of("rule", which.rule),
        period=period_of(which.since, which.until),
        batch_id=None if which.batch_id is None else parse_id(which.batch_id, what="batch"),
    )


def require_a_field(which: object, empty: object) -> None:
    """Refuse a filter that would match everything."""
    if which == empty:
        given = ("rule", "provider", "application", "grant_id", "batch_id", "tag", "since", "until")
        refuse([Problem("which", "has no filter", f"give at least one of {', '.join(given)}")])


def event_fields(which: JobFilter | GrantQuery) -> dict[str, Any]:
    """A filter as the fields of the act's event."""
    scope = which.scope
    lanes = {"application": scope.application, "provider": scope.provider, "grant_id": scope.grant}
    of_jobs = {"tag": which.tag} if isinstance(which, JobFilter) else {}
    return lanes | {"rule": which.rule, "batch_id": which.batch_id} | of_jobs


def spacing_of(apart_s: float) -> Micros:
    """The time from one to the next, checked."""
    if not isinstance(apart_s, int | float) or isinstance(apart_s, bool) or not 0 <= apart_s <= SPACING_MOST_S:
        remedy = f"give seconds from 0 (as fast as they can) to {SPACING_MOST_S:,}"
        refuse([Problem("apart_s", "is not a time between two of them", remedy)])
    return seconds(apart_s)


def lane_of(grant_id: str | None, application: str) -> UUID | None:
    """The lane of a filter's grant; None: any lane."""
    if grant_id is None:
        return None
    refuse(check_grant(grant_id))
    return lane_id(application, grant_id)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise `InvalidArgument` if there is any problem."""
    if listed := list(problems):
        raise InvalidArgument(listed)
