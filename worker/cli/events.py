"""``sendq events``: what happened to grants and holds, and what operators did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import open_operators
from worker.cli.filters import (
    batch_option,
    id_of,
    page_options,
    period_options,
    rule_option,
    scope_options,
    tell_of_more,
    whole_page,
)
from worker.cli.output import Column, counted, json_option, tell, tell_json, tell_table

if TYPE_CHECKING:
    from sendq.views import EventView

# Spelled out, so that --help needs no import of the ledger; a test holds them to its own.
KINDS = (
    "reschedule", "priority", "hold", "release", "approve", "reject",
    "closed", "reopened", "reauth_required", "grant_gone", "escalated", "narrowed", "clock_set_back",
    "recipients_dropped", "over_budget",
    "cancel", "retry", "resolved", "deliveries_retried", "forget", "recovered", "rekey", "suppressed", "unsuppressed",
    "replace", "window", "warm_up", "undo", "refused",
)  # fmt: skip

# What the acts on many things concern; all others: jobs.
NOUNS = {
    "hold": "grant", "release": "grant", "deliveries_retried": "delivery", "suppressed": "recipient",
    "unsuppressed": "recipient",
}  # fmt: skip


@click.command()
@click.option(
    "--kind",
    multiple=True,
    type=click.Choice(KINDS),
    metavar="KIND",
    help=f"Only events of this kind; repeatable: {', '.join(KINDS)}.",
)
@scope_options("events", of="about")
@rule_option("Only events caused by this rule.")
@click.option("--job", metavar="ID", help="Only events about this job, or caused by its answer.")
@batch_option("Only events about this batch.")
@period_options("Only what happened")
@page_options()
@json_option
def events(
    kind: tuple[str, ...],
    job: str | None,
    batch: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List what happened to grants and holds, and what operators did: the latest first, with author and time.

    \b
    hold, release     a hold was set; a hold was ended early
    closed, reopened  the grant's owner must sign in again; its jobs continue
    reauth_required   the application was asked to have the owner sign in again
    grant_gone        the grant no longer exists at Nylas
    escalated         many grants failed alike: their provider was held instead
    narrowed          the grant makes fewer calls at once from now on
    clock_set_back    the clock had been ahead; times that lie too far ahead were brought back

    All other kinds are actions of operators.
    """
    id_of(job, "job")
    id_of(batch, "batch")
    with open_operators() as operators:
        page = whole_page(
            lambda size, after: operators.events(
                **filters, kind=kind or None, job_id=job, batch_id=batch, limit=size, cursor=after
            ),
            limit,
            cursor,
        )
    if as_json:
        tell_json(page.as_json())
        return
    if not page.items:
        tell("no events" + (" match" if any((kind, job, batch, *filters.values())) else " yet"))
        return
    tell_table(
        ("at", "event", Column("concerns", folds=True), "rule", "by", Column("reason", folds=True)),
        [(event.at, event.kind, _concerns(event), event.rule, event.by, event.reason) for event in page.items],
    )
    tell_of_more(page)


def _concerns(event: EventView) -> str:
    """The scope, and the job or batch: what an operator acted on, or the job whose answer caused it."""
    from sendq.scope import Scope

    if event.number is not None:
        return _many(event, event.number)
    scope = (
        "" if event.application is None else str(Scope(event.application, event.grant_id, event.provider, event.tag))
    )
    job = f"job {event.job_id}" if event.job_id else f"batch {event.batch_id}" if event.batch_id else ""
    return ": ".join(part for part in (scope, job) if part)


def _many(event: EventView, number: int) -> str:
    """What an act on many things concerned: their number, and its filter."""
    of_a_batch = event.batch_id is not None and event.rule == "by_hand"  # its own hold, not that of its grant
    noun = "job" if of_a_batch else NOUNS.get(event.kind, "job")
    what = counted(number, noun) if noun != "delivery" else f"{number:,} deliveries"
    pairs = (("grant", event.grant_id), ("provider", event.provider), ("application", event.application),
             ("batch", event.batch_id), ("tag", event.tag))  # fmt: skip
    of = ", ".join(f"{name} {value}" for name, value in pairs if value is not None)
    if noun == "recipient":
        of += ", all mail" if event.category is None else f", category {event.category}"
    return f"{what} of {of}" if of else what
