"""Options that name what a hold concerns, and its words; shared by ``hold`` and ``release``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.filters import batch_option, rule_option, tag_option
from worker.cli.params import PROVIDERS

if TYPE_CHECKING:
    from datetime import datetime

    from sendq.filters import GrantFilter
    from sendq.scope import Scope, ScopeState


F = TypeVar("F", bound=Callable[..., Any])


def scope_options(command: F) -> F:
    """``--grant``, ``--provider``, ``--tag`` or ``--whole-application``; with ``--application``."""
    for option in (
        click.option("--application", metavar="NAME", help="The application's name (default: `default`)."),
        click.option("--whole-application", is_flag=True, help="All grants of the application."),
        tag_option("All jobs with this tag, in all lanes of the application; their other jobs go on."),
        click.option("--provider", type=click.Choice(PROVIDERS), help="All grants of this provider."),
        click.option("--grant", metavar="ID", help="One grant."),
    ):
        command = option(command)
    return command


def job_options(command: F) -> F:
    """``--job``, ``--key`` or ``--batch``: jobs that wait, instead of grants."""
    for option in (
        batch_option("The waiting jobs of this batch; other mail of their grants goes on."),
        click.option("--key", metavar="KEY", help="The job or batch that was enqueued with this key."),
        click.option("--job", metavar="ID", help="One job that waits."),
    ):
        command = option(command)
    return command


def jobs_named(
    job: str | None, key: str | None, batch: str | None, others: Mapping[str, object]
) -> dict[str, Any] | None:
    """The job or batch that is named, as arguments of the acts; None: the command is about grants.

    ``others``: the options that are about grants.
    """
    named = sum(given is not None for given in (job, key, batch))
    if not named:
        return None
    application = others["application"]
    if named > 1 or any(value for name, value in others.items() if name != "application"):
        raise click.UsageError(
            "give one of --job, --key and --batch alone: they name jobs, and --grant, --rule, --since, --for and the "
            "like are about grants"
        )
    return {"job_id": job, "key": key, "batch_id": batch, "application": application or "default"}


def each_grant_options(done: str, period: Callable[[Any], Any]) -> Callable[[F], F]:
    """The options of an act on each grant that matches, instead of one on a scope; ``period``: those of the time."""

    def decorate(command: F) -> F:
        for option in (
            period,
            click.option(
                "--state", multiple=True, type=click.Choice(("open", "held", "closed")),
                help="Grants in this state; repeatable.",
            ),
            rule_option("Grants that this rule held or closed."),
            click.option(
                "--each-grant", is_flag=True,
                help=f"Each grant of the provider or application is {done}, not the provider or application itself.",
            ),
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


def filter_of(
    application: str | None,
    grant: str | None,
    provider: str | None,
    whole_application: bool,
    each_grant: bool,
    rule: str | None,
    state: tuple[str, ...],
    since: datetime | None,
    until: datetime | None = None,
    tag: str | None = None,
) -> GrantFilter | None:
    """The filter of an act on many grants; None: it is about one scope."""
    from sendq import GrantFilter

    if not (each_grant or rule or state):
        if since or until:
            raise click.UsageError("--since and --until go with --rule, --state or --each-grant")
        return None
    if tag is not None:
        raise click.UsageError("--tag goes with --application alone: it holds jobs, not grants")
    if whole_application:
        application = application or "default"
    which = GrantFilter(
        states=state, rule=rule, provider=provider, application=application, grant_id=grant, since=since,
        until=until,
    )  # fmt: skip
    if which == GrantFilter():
        raise click.UsageError(
            "this would concern every grant; give --provider, --whole-application, or a filter like --rule or --since"
        )
    return which


def scope_of(
    application: str | None, grant: str | None, provider: str | None, whole_application: bool, tag: str | None
) -> Scope:
    """The scope that is named. Raises `InvalidArgument` for what cannot be one."""
    from sendq import Scope

    application = application or "default"
    if (grant is not None) + (provider is not None) + (tag is not None) + whole_application != 1:
        raise click.UsageError("give one of --grant, --provider, --tag and --whole-application, or --rule")
    if tag is not None:
        return Scope.of_tag(tag, application)
    if grant is not None:
        return Scope.of_grant(grant, application)
    return Scope.of_provider(provider, application) if provider else Scope.of_application(application)


def options_of(scope: Scope) -> str:
    """The options that name a scope."""
    if scope.grant_id is not None:
        named = f"--grant {scope.grant_id}"
    elif scope.tag is not None:
        named = f"--tag {scope.tag}"
    else:
        named = f"--provider {scope.provider}" if scope.provider else "--whole-application"
    return named if scope.application == "default" else f"{named} --application {scope.application}"


def scope_json(scope: Scope) -> dict[str, Any]:
    """A scope for programs."""
    return {
        "application": scope.application, "provider": scope.provider, "grant_id": scope.grant_id, "tag": scope.tag,
    }  # fmt: skip


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
