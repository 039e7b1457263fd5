"""What a hold concerns: one grant, one provider, all jobs with a tag, or all of an application. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sendq.enqueueing.arguments import check_grant
from sendq.errors import InvalidArgument, Problem
from sendq.rules.pace import PROVIDERS
from sendq.rules.tags import check_tag

DEFAULT_APPLICATION = "default"


@dataclass(frozen=True, slots=True)
class Scope:
    """One grant, one provider, the jobs with a tag, or (none of these) all of an application.

    Made by `of_grant`, `of_provider`, `of_tag`, `of_application`. ``application`` is the name of a configured Nylas
    application.
    """

    application: str
    grant_id: str | None = None
    provider: str | None = None
    tag: str | None = None

    @classmethod
    def of_grant(cls, grant_id: str, application: str = DEFAULT_APPLICATION) -> Scope:
        """One grant. Raises `InvalidArgument` for what cannot be a grant's id."""
        if problems := check_grant(grant_id):
            raise InvalidArgument(problems)
        return cls(_checked(application), grant_id=grant_id)

    @classmethod
    def of_provider(cls, provider: str, application: str = DEFAULT_APPLICATION) -> Scope:
        """All grants of a provider in one application. Raises `InvalidArgument` for a provider that does not exist."""
        if provider not in PROVIDERS:
            raise InvalidArgument([Problem("provider", "is not a provider", f"give one of {', '.join(PROVIDERS)}")])
        return cls(_checked(application), provider=provider)

    @classmethod
    def of_tag(cls, tag: str, application: str = DEFAULT_APPLICATION) -> Scope:
        """All jobs with a tag, such as ``campaign=may``, in one application. Raises `InvalidArgument` for no tag."""
        if problems := check_tag(tag):
            raise InvalidArgument(problems)
        return cls(_checked(application), tag=tag)

    @classmethod
    def of_application(cls, application: str = DEFAULT_APPLICATION) -> Scope:
        """All grants of an application."""
        return cls(_checked(application))

    def __str__(self) -> str:
        of = "" if self.application == "default" else f" of {self.application}"
        if self.grant_id is not None:
            return f"grant {self.grant_id}{of}"
        if self.tag is not None:
            return f"tag {self.tag}{of}"
        return f"provider {self.provider}{of}" if self.provider else f"application {self.application}"


def grant_pattern(pattern: str) -> str:
    """A pattern of grants (``team-*``: ``*`` stands for any characters, everything else for itself) as a regular
    expression, which Python and PostgreSQL read alike.
    """
    return rf"^{'.*'.join(map(re.escape, pattern.split('*')))}\Z"


def matches_grant(pattern: str, grant_id: str) -> bool:
    """Whether a grant matches a pattern of grants."""
    return re.search(grant_pattern(pattern), grant_id, re.DOTALL) is not None


# Counting the waiting jobs of a scope stops here: the count stays cheap.
COUNT_MOST = 100_000


@dataclass(frozen=True, slots=True)
class ScopeState:
    """A scope as it is at one moment.

    ``known``: it has had a job or a hold; of a tag: there are jobs with it. ``waiting``: how many of its jobs wait;
    `COUNT_MOST` means that many or more. ``held_rule`` and ``held_by``: what or who holds it. ``closed``: the owner of
    the grant must sign in again.
    """

    known: bool
    waiting: int
    held_until: datetime | None = None
    held_rule: str | None = None
    held_by: str | None = None
    closed: bool = False


def _checked(application: str) -> str:
    if not isinstance(application, str) or not application or not application.isprintable():
        raise InvalidArgument([Problem("application", "is not a name", "give the name of a configured application")])
    return application
