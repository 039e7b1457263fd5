"""Options that filter jobs, under one name each, and what becomes of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.output import FAILED, complain, tell

if TYPE_CHECKING:
    from uuid import UUID


F = TypeVar("F", bound=Callable[..., Any])


def rule_option(help_: str) -> Callable[[F], F]:
    """``--rule``: jobs by the rule that decided last."""
    return click.option("--rule", metavar="RULE", help=help_)


def grant_options(help_: str) -> Callable[[F], F]:
    """``--grant``, and the ``--application`` that it belongs to."""

    def decorate(command: F) -> F:
        for option in (
            click.option(
                "--application", default="default", show_default=True, help="The application that the grant belongs to."
            ),
            click.option("--grant", metavar="ID", help=help_),
        ):
            command = option(command)
        return command

    return decorate


def batch_option(help_: str) -> Callable[[F], F]:
    """``--batch``."""
    return click.option("--batch", metavar="ID", help=help_)


def page_options(most: int = 20) -> Callable[[F], F]:
    """``--limit``, and ``--after`` for the page that follows."""

    def decorate(command: F) -> F:
        limit = click.option(
            "--limit", type=click.IntRange(1, 10_000), default=most, show_default=True, help="How many at most."
        )
        return click.option("--after", metavar="JOB", help="Those behind this one in the list: the next page.")(
            limit(command)
        )

    return decorate


def lane_of(application: str, grant: str | None) -> UUID | None:
    """The lane of a grant that was given, whether it had a job or not; refuses what cannot be a grant's id."""
    from sendq.ids import lane_id

    if grant is None:
        return None
    check_grant_id(grant)
    return lane_id(application, grant)


def id_of(given: str | None, what: str) -> UUID | None:
    """A ``what``'s id, if one was given. Raises `NotFound` for what is none."""
    from sendq.ledger.reading.lookup import parse_id

    return None if given is None else parse_id(given, what=what)


def check_grant_id(grant: str) -> None:
    """Refuse what cannot be a grant's id; what is given is not repeated, for it may be an address."""
    from sendq.enqueueing.arguments import check_grant

    problems = check_grant(grant)
    if problems:
        raise click.UsageError(f"--grant {problems[0].reason}; {problems[0].remedy}")


def refuse_unknown_rule(rule: str | None) -> None:
    """Nothing was found: if no rule is called so, that is why, and status 1."""
    from worker.cli.rule_texts import unknown_rule

    problem = None if rule is None else unknown_rule(rule)
    if problem is not None:
        complain(problem)
        raise SystemExit(FAILED)


def tell_of_more(more: bool, last: str) -> None:
    """Say how the next page is asked for."""
    if more:
        tell(f"there are more; the next page: the same with --after {last}")
