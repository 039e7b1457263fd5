"""Checks the filters that programs pass to `Operators` and `SendQueue`: errors name field, reason and remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import Enum
from typing import NoReturn, TypeVar
from uuid import UUID

from sendq.clock import Micros, micros
from sendq.enqueueing.arguments import check_grant
from sendq.errors import InvalidArgument, Problem
from sendq.ledger.reading.filters import JobFilter, LaneFilter, Period
from sendq.rules.pace import PROVIDERS
from sendq.rules.tags import check_tag
from sendq.scope import DEFAULT_APPLICATION

E = TypeVar("E", bound=Enum)

LIMIT_MOST = 10_000  # items of a page: some megabytes


def refuse(field: str, reason: str, remedy: str) -> NoReturn:
    """Raise `InvalidArgument`. The value is not repeated: it may be an address."""
    raise InvalidArgument([Problem(field, reason, remedy)])


def scope_of(application: str | None, provider: str | None, grant_id: str | None) -> LaneFilter:
    """The filter of lanes. A grant without an application belongs to the application ``default``."""
    if grant_id is not None:
        for problem in check_grant(grant_id):
            refuse("grant_id", problem.reason, problem.remedy)
        application = DEFAULT_APPLICATION if application is None else application
    providers = choices_of("provider", provider, PROVIDERS)
    return LaneFilter(name_of("application", application), providers[0] if providers else None, grant_id)


def name_of(field: str, given: str | None) -> str | None:
    """A name, or None if none was given."""
    if given is not None and not (isinstance(given, str) and given and given.isprintable()):
        refuse(field, "is not a name", "give a non-empty string of printable characters, or None")
    return given


def id_of(field: str, given: str | UUID | None) -> UUID | None:
    """An id, or None if none was given."""
    if given is None or isinstance(given, UUID):
        return given
    try:
        return UUID(given)
    except (ValueError, AttributeError, TypeError):
        refuse(field, "is no id", "ids look like 0192f0c1-2f3e-7c4d-9a5b-0123456789ab")


def members_of(field: str, given: E | str | Iterable[E | str] | None, kind: type[E]) -> Collection[E]:
    """One or several members of ``kind``, given as members or values; an empty list (no filter) for None."""
    names = [member.value for member in kind]
    return [kind(name) for name in choices_of(field, given, names)]


def choices_of(field: str, given: object, choices: Collection[str]) -> list[str]:
    """One or several of ``choices``; an empty list (no filter) for None."""
    if given is None:
        return []
    several = [given] if isinstance(given, str | Enum) or not isinstance(given, Iterable) else list(given)
    values = [str(one.value if isinstance(one, Enum) else one) for one in several]
    if not values or not set(values) <= set(choices):
        refuse(field, "is not one of its values", f"give one or several of {', '.join(choices)}, or None for all")
    return values


def period_of(since: datetime | None, until: datetime | None, prefix: str = "") -> Period:
    """From ``since`` on, and before ``until``; ``prefix``: of both names."""
    return Period(_micros(f"{prefix}since", since), _micros(f"{prefix}until", until))


def job_filter(
    application: str | None,
    provider: str | None,
    grant_id: str | None,
    rule: str | None,
    batch_id: str | UUID | None,
    since: datetime | None,
    until: datetime | None,
    tag: str | None = None,
) -> JobFilter:
    """The filter of jobs that every list and act of jobs has."""
    scope = scope_of(application, provider, grant_id)
    batch = id_of("batch_id", batch_id)
    return JobFilter(scope, name_of("rule", rule), batch, period_of(since, until), tag_of(tag))


def tag_of(given: str | None) -> str | None:
    """A tag (``campaign=may``), or None if none was given."""
    for problem in [] if given is None else check_tag(given):
        refuse(problem.field, problem.reason, problem.remedy)
    return given


def limit_of(given: int) -> int:
    """The greatest number of items of a page."""
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= LIMIT_MOST:
        refuse("limit", "is no number of items", f"give a number from 1 to {LIMIT_MOST:,}")
    return given


def _micros(field: str, given: datetime | None) -> Micros | None:
    if given is None:
        return None
    if not isinstance(given, datetime) or given.tzinfo is None:
        refuse(field, "is no datetime with a time zone", "give one, like datetime.now(UTC) - timedelta(hours=2)")
    return micros(given)
