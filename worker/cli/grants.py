"""``sendq grants``: grants that are closed or held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import load_settings, open_operators
from worker.cli.filters import (
    page_options,
    period_options,
    refuse_unknown_rule,
    rule_option,
    scope_options,
    tell_of_more,
    whole_page,
)
from worker.cli.held_text import tell_groups
from worker.cli.output import Column, json_option, tell, tell_json, tell_table, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sendq.views import GrantView, HeldGroup, Page

# Spelled out, so that --help needs no import of the package's own lists; a test holds them together.
STATES = ("open", "held", "closed")


@click.command()
@click.option(
    "--state", multiple=True, type=click.Choice(STATES),
    help="Only grants in this state; repeatable (default: held and closed; with --grant, any).",
)  # fmt: skip
@scope_options("grants", grant="Only this grant, even if nothing holds it.")
@rule_option("Only grants that this rule held or closed.")
@period_options("Only grants held or closed")
@page_options(100)
@json_option
def grants(state: tuple[str, ...], limit: int, cursor: str | None, as_json: bool, **filters: Any) -> None:
    """List grants that are held, or closed because their owner must sign in again: since when, why, until when, how
    many jobs wait, and the address at which the owner signs in.

    Several are also grouped by rule and provider; to release a group: sendq release --rule RULE --provider PROVIDER
    """
    from worker.notifying.reauth import reauth_url

    page = _grants(state, filters, limit, cursor)
    groups = _groups(filters) if len(page.items) > 1 and cursor is None and not state else ()
    if not page.items:
        refuse_unknown_rule(filters["rule"])
    settings = load_settings()
    urls = [
        reauth_url(settings, grant.application, grant.grant_id) if not grant.connected and not grant.gone else None
        for grant in page.items
    ]
    if as_json:
        items = [grant.as_json() | {"reauth_url": url} for grant, url in zip(page.items, urls, strict=True)]
        tell_json({"items": items, "next": page.next, "groups": [group.as_json() for group in groups]})
        return
    if not page.items:
        tell("no grants match" if state or any(filters.values()) else "no grant is held or closed")
        return
    if groups:
        tell_groups(groups)
        tell()
    tell_table(
        (
            "grant",
            Column("state", folds=True),
            "until",
            "waiting",
            "rule",
            Column("since", extra=True),
            Column("by", extra=True),
            Column("reason", folds=True, extra=True),
            Column("sign in again at", folds=True),
        ),
        [_cells(grant, url) for grant, url in zip(page.items, urls, strict=True)],
    )
    if filters["grant_id"] is not None:
        for grant in page.items:
            if grant.daily is not None:
                tell(f"it is being warmed up: at most {grant.daily:,} messages within 24 hours today, more every day")
            if grant.window is not None:
                closed = "" if grant.opens_at is None else f"; closed until {when(grant.opens_at)}"
                tell(f"window of its jobs that have none of their own: {grant.window}{closed}")
        for call, units in sorted(item for grant in page.items for item in grant.costs.items()):
            tell(f"its last {call} used {units} units of {page.items[0].provider}'s limits, as the answer stated")
    tell_of_more(page)


def _grants(state: tuple[str, ...], filters: dict[str, Any], limit: int, cursor: str | None) -> Page[GrantView]:
    from sendq.views import Page

    grant_id, application = filters["grant_id"], filters["application"]
    with open_operators() as operators:
        if (
            grant_id is not None
            and not state
            and not any(filters[name] for name in ("provider", "rule", "since", "until"))
        ):
            return Page((operators.grant(grant_id, application=application or "default"),))
        states = state or (None if grant_id is not None else ("held", "closed"))
        return whole_page(
            lambda size, after: operators.grants(**filters, state=states, limit=size, cursor=after), limit, cursor
        )


def _groups(filters: dict[str, Any]) -> Sequence[HeldGroup]:
    """All that is held or closed, grouped, unless the list is about some time or one grant."""
    if any(filters[name] for name in ("grant_id", "since", "until")):
        return ()
    with open_operators() as operators:
        return operators.held(**{name: filters[name] for name in ("application", "provider", "rule")})


def _cells(grant: GrantView, url: str | None) -> tuple[object, ...]:
    name = grant.grant_id if grant.application == "default" else f"{grant.grant_id} of {grant.application}"
    state = "gone" if grant.gone else "closed, being checked" if grant.suspected else str(grant.state)
    wider = [hold for hold in grant.holds if hold.grant_id is None]
    if wider:
        state += f"; its {'application' if wider[0].provider is None else 'provider'} is held"
    missing = "set NYLAS_CLIENT_ID or SENDQ_REAUTH_URL" if not grant.connected and not grant.gone else ""
    return (
        name, state, grant.until or grant.held_until,
        f"{grant.waiting:,}" + (" or more" if grant.more_waiting else ""),
        grant.rule, grant.since, grant.by, grant.reason, url or missing,
    )  # fmt: skip
