"""What a hold concerns: a grant, a provider or a whole application; shared by ``hold`` and ``release``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.filters import check_grant_id
from worker.cli.params import PROVIDERS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sendq.clock import Micros
    from sendq.scope import ScopeState


F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Scope:
    """What a command concerns: a grant, a provider, or (neither) the whole application."""

    application: str
    grant: str | None
    provider: str | None

    def __str__(self) -> str:
        of = "" if self.application == "default" else f" of {self.application}"
        if self.grant is not None:
            return f"grant {self.grant}{of}"
        return f"provider {self.provider}{of}" if self.provider else f"application {self.application}"

    @property
    def pair(self) -> str:
        """The provider as the ledger has it."""
        return self.provider or "*"

    @property
    def options(self) -> str:
        """What names it on the command line."""
        if self.grant is not None:
            named = f"--grant {self.grant}"
        else:
            named = f"--provider {self.provider}" if self.provider else "--whole-application"
        return named if self.application == "default" else f"{named} --application {self.application}"

    def as_json(self) -> dict[str, Any]:
        """Its parts."""
        return {"application": self.application, "provider": self.provider, "grant_id": self.grant}


def scope_options(command: F) -> F:
    """``--grant``, ``--provider`` or ``--whole-application``; with ``--application``."""
    for option in (
        click.option("--application", default="default", show_default=True, help="The application that is meant."),
        click.option("--whole-application", is_flag=True, help="All lanes of the application."),
        click.option("--provider", type=click.Choice(PROVIDERS), help="All lanes of this provider."),
        click.option("--grant", metavar="ID", help="One grant."),
    ):
        command = option(command)
    return command


def scope_of(application: str, grant: str | None, provider: str | None, whole_application: bool) -> Scope:
    if (grant is not None) + (provider is not None) + whole_application != 1:
        raise click.UsageError("say what: one of --grant, --provider and --whole-application")
    if not application or not application.isprintable():
        raise click.UsageError("--application is not a name")
    if grant is not None:
        check_grant_id(grant)
    return Scope(application, grant, provider)


def standing_of(connection: Connection, scope: Scope, *, now: Micros) -> ScopeState:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.grant_state(connection, scope.application, scope.grant, now=now)
    return holds.pair_state(connection, scope.application, scope.pair, now=now)


def waiting(standing: ScopeState) -> str:
    from sendq.scope import COUNT_MOST

    number = f"{standing.waiting:,}" + (" or more" if standing.waiting >= COUNT_MOST else "")
    return "1 job waits" if standing.waiting == 1 else f"{number} jobs wait"


def standing_json(standing: ScopeState) -> dict[str, Any]:
    held_until = standing.held_until
    return {
        "known": standing.known,
        "waiting": standing.waiting,
        "closed": standing.closed,
        "held_until": held_until.isoformat() if held_until is not None else None,
        "held_rule": standing.held_rule,
        "held_by": standing.held_by,
    }
