"""The options of lists and of acts on many jobs, under one name each, and how a list is asked for page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.output import FAILED, complain, tell
from worker.cli.params import PROVIDERS, past, since_option

if TYPE_CHECKING:
    from uuid import UUID

    from sendq.operators import Run
    from sendq.views import Page

T = TypeVar("T")
P = TypeVar("P")
F = TypeVar("F", bound=Callable[..., Any])


def rule_option(help_: str) -> Callable[[F], F]:
    """``--rule``: jobs by the rule that decided last."""
    return click.option("--rule", metavar="RULE", help=help_)


def batch_option(help_: str) -> Callable[[F], F]:
    """``--batch``."""
    return click.option("--batch", metavar="ID", help=help_)


def tag_option(help_: str) -> Callable[[F], F]:
    """``--tag``, once: an act on what has either of two tags would concern too much."""

    def once(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> str | None:
        if len(given) > 1:
            raise click.BadParameter("is given more than once")
        return given[0] if given else None

    return click.option("--tag", multiple=True, callback=once, metavar="KEY=VALUE", help=help_)


def scope_options(what: str, *, of: str = "of", grant: str | None = None) -> Callable[[F], F]:
    """``--grant``, ``--provider`` and ``--application``, as every list has them; ``what`` is listed."""

    def decorate(command: F) -> F:
        for option in (
            click.option(
                "--application", metavar="NAME",
                help=f"Only {what} {of} this application. With --grant: its application, by default `default`.",
            ),
            click.option("--provider", type=click.Choice(PROVIDERS), help=f"Only {what} {of} this provider."),
            click.option("--grant", "grant_id", metavar="ID", help=grant or f"Only {what} {of} this grant."),
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


def period_options(what: str) -> Callable[[F], F]:
    """``--since`` and ``--until``; ``what`` begins their help."""

    def decorate(command: F) -> F:
        until = click.option(
            "--until", type=past, metavar="TIME", help=f"{what} before this time; written like --since."
        )
        return since_option(f"{what} since")(until(command))

    return decorate


def key_option(what: str) -> Callable[[F], F]:
    """``--key``: instead of an id; ``what``: that which was enqueued with it."""
    words = f"{what} that was enqueued with this key in the application given with --application (default: `default`)."
    return click.option("--key", metavar="KEY", help=words)


def act_options(what: str, *, rule: str, period: str) -> Callable[[F], F]:
    """The filter of an act on many ``what``; ``rule`` and ``period`` begin the help of these."""

    def decorate(command: F) -> F:
        for option in (
            period_options(period),
            tag_option("Those with this tag."),
            batch_option("Those of this batch."),
            scope_options(what),
            rule_option(rule),
        ):
            command = option(command)
        return command

    return decorate


def interruptible(run: Run[P], show: Callable[[str], None], progress: Callable[[P], str]) -> P:
    """Carry out an act to its end. After Ctrl-C, what has been done is kept, and is said."""
    last: P | None = None
    try:
        for last in run:
            show(progress(last))
    except KeyboardInterrupt:
        so_far = "nothing was changed" if last is None else progress(last)
        complain(f"interrupted: {so_far}; run the same command again to continue")
        raise
    return run.finish()


def page_options(most: int = 20) -> Callable[[F], F]:
    """``--limit``, and ``--after`` for the page that follows."""

    def decorate(command: F) -> F:
        limit = click.option(
            "--limit",
            type=click.IntRange(1, 10_000),
            metavar="N",
            default=most,
            show_default=True,
            help="Rows of a page.",
        )
        after = click.option(
            "--after",
            "cursor",
            metavar="CURSOR",
            help="Show the page that follows: the CURSOR is printed at the end of a page.",
        )
        return after(limit(command))

    return decorate


def whole_page(ask: Callable[[int, str | None], Page[T]], limit: int, cursor: str | None) -> Page[T]:
    """Up to ``limit`` items: a page that came short because few rows fit is filled from those that follow."""
    from sendq.views import Page

    items: list[T] = []
    while True:
        page = ask(limit - len(items), cursor)
        items += page.items
        cursor = page.next
        if cursor is None or len(items) == limit:
            return Page(tuple(items), cursor)


def id_of(given: str | None, what: str) -> UUID | None:
    """A ``what``'s id, if one was given. Raises `NotFound` for what is none."""
    from sendq.ids import parse_id

    return None if given is None else parse_id(given, what=what)


def refuse_unknown_rule(rule: str | None) -> None:
    """Where nothing was found: fail with status 1 if there is no rule of this name."""
    from worker.cli.rule_texts import unknown_rule

    problem = None if rule is None else unknown_rule(rule)
    if problem is not None:
        complain(problem)
        raise SystemExit(FAILED)


def tell_of_more(page: Page[Any]) -> None:
    """Say that the list goes on, and how the next page is asked for."""
    if page.next is not None:
        tell(f"more follow; for the next page add: --after {page.next}")
