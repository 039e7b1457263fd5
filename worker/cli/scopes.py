"""Options that name what a hold concerns, and its words; shared by ``hold`` and ``release``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.params import PROVIDERS

if TYPE_CHECKING:
    from sendq.scope import Scope, ScopeState


F = TypeVar("F", bound=Callable[..., Any])


def scope_options(command: F) -> F:
    """``--grant``, ``--provider`` or ``--whole-application``; with ``--application``."""
    for option in (
        click.option("--application", default="default", show_default=True, help="The application's name."),
        click.option("--whole-application", is_flag=True, help="All grants of the application."),
        click.option("--provider", type=click.Choice(PROVIDERS), help="All grants of this provider."),
        click.option("--grant", metavar="ID", help="One grant."),
    ):
        command = option(command)
    return command


def scope_of(application: str, grant: str | None, provider: str | None, whole_application: bool) -> Scope:
    """The scope that is named. Raises `InvalidArgument` for what cannot be one."""
    from sendq import Scope

    if (grant is not None) + (provider is not None) + whole_application != 1:
        raise click.UsageError("give one of --grant, --provider and --whole-application")
    if grant is not None:
        return Scope.of_grant(grant, application)
    return Scope.of_provider(provider, application) if provider else Scope.of_application(application)


def options_of(scope: Scope) -> str:
    """The options that name a scope."""
    if scope.grant_id is not None:
        named = f"--grant {scope.grant_id}"
    else:
        named = f"--provider {scope.provider}" if scope.provider else "--whole-application"
    return named if scope.application == "default" else f"{named} --application {scope.application}"


def scope_json(scope: Scope) -> dict[str, Any]:
    """A scope for programs."""
    return {"application": scope.application, "provider": scope.provider, "grant_id": scope.grant_id}


def state_json(state: ScopeState) -> dict[str, Any]:
    """The state of a scope for programs."""
    return {
        "known": state.known,
        "waiting": state.waiting,
        "closed": state.closed,
        "held_until": state.held_until.isoformat() if state.held_until is not None else None,
        "held_rule": state.held_rule,
        "held_by": state.held_by,
    }


def waiting_text(state: ScopeState) -> str:
    """How many jobs wait."""
    from sendq.scope import COUNT_MOST

    number = f"{state.waiting:,}" + (" or more" if state.waiting >= COUNT_MOST else "")
    return "1 job waits" if state.waiting == 1 else f"{number} jobs wait"
