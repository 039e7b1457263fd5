"""``sendq jobs``: list jobs."""

from __future__ import annotations

from typing import Any

import click

from worker.cli.connection import open_operators
from worker.cli.filters import (
    batch_option,
    id_of,
    page_options,
    period_options,
    refuse_unknown_rule,
    rule_option,
    scope_options,
    tell_of_more,
    whole_page,
)
from worker.cli.output import json_option, tell, tell_json, tell_table

# Spelled out, so that --help needs no import of the package's own lists; a test holds them together.
STATES = ("queued", "sending", "in_doubt", "sent", "dead", "cancelled", "expired")
OPERATIONS = ("send", "modify", "delete", "list")
PRIORITIES = ("high", "normal", "low")


@click.command()
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only jobs in this state; repeatable.")
@rule_option("Only jobs last decided by this rule (sendq policy lists them).")
@scope_options("jobs")
@batch_option("Only jobs of this batch.")
@click.option(
    "--operation",
    type=click.Choice(OPERATIONS),
    help="Only this operation (list: a search for the messages of a batch).",
)
@click.option("--priority", type=click.Choice(PRIORITIES), help="Only this priority.")
@period_options("Only jobs enqueued")
@page_options()
@json_option
def jobs(
    state: tuple[str, ...], batch: str | None, limit: int, cursor: str | None, as_json: bool, **filters: Any
) -> None:
    """List the jobs that match every filter, the most recently enqueued first."""
    id_of(batch, "batch")
    with open_operators() as operators:
        page = whole_page(
            lambda size, after: operators.jobs(
                **filters, state=state or None, batch_id=batch, limit=size, cursor=after
            ),
            limit,
            cursor,
        )
    if not page.items:
        refuse_unknown_rule(filters["rule"])
    if as_json:
        tell_json(page.as_json())
        return
    if not page.items:
        tell("no jobs match")
        return
    tell_table(
        ("job", "state", "operation", "grant", "enqueued", "attempts used", "rule"),
        [
            (job.id, job.state, job.operation, job.grant_id, job.created_at, job.attempts, job.rule)
            for job in page.items
        ],
    )
    tell_of_more(page)
