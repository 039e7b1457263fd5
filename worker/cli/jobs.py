"""``sendq jobs``: list jobs."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.connection import read_ledger
from worker.cli.filters import (
    batch_option,
    grant_options,
    id_of,
    lane_of,
    page_options,
    refuse_unknown_rule,
    rule_option,
    tell_of_more,
)
from worker.cli.output import json_option, tell, tell_json, tell_table
from worker.cli.params import past, since_option

if TYPE_CHECKING:
    pass


# Spelled out, so that --help needs no import of the package's own lists; a test holds them together.
STATES = ("queued", "sending", "in_doubt", "sent", "dead", "cancelled", "expired")


OPERATIONS = ("send", "modify", "delete", "list")


PRIORITIES = ("high", "normal", "low")


@click.command()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Those in this state; repeatable.")
@rule_option("Those of which this rule decided last.")
@grant_options("Those of this grant.")
@batch_option("Those of this batch.")
@click.option("--operation", type=click.Choice(OPERATIONS), help="Those that do this (list: a page of a walk).")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Those of this priority.")
@since_option("Those enqueued since")
@click.option("--until", type=past, metavar="TIME", help="Those enqueued before then; written like --since.")
@page_options()
@json_option
def jobs(
    states: tuple[str, ...],
    rule: str | None,
    grant: str | None,
    application: str,
    batch: str | None,
    operation: str | None,
    priority: str | None,
    since: datetime | None,
    until: datetime | None,
    after: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """The jobs that fit every given filter; those that were enqueued last come first."""
    from sendq.clock import micros
    from sendq.ledger.reading.listing import Which, latest_jobs
    from sendq.rules.states import State
    from sendq.views import Priority

    which = Which(
        states={State(name) for name in states},
        rule=rule,
        lane_id=lane_of(application, grant),
        batch_id=id_of(batch, "batch"),
        operation=operation,
        priority=Priority[priority.upper()] if priority else None,
        since=None if since is None else micros(since),
        until=None if until is None else micros(until),
    )
    behind = id_of(after, "job")
    found = read_ledger(lambda connection: latest_jobs(connection, which, after=behind, limit=limit + 1))
    if not found:
        refuse_unknown_rule(rule)
    shown = found[:limit]
    if as_json:
        tell_json([job.as_json() for job in shown])
        return
    if not shown:
        tell("no job fits")
        return
    columns = ("job", "state", "operation", "grant", "enqueued", "attempts", "rule")
    tell_table(
        columns,
        [(job.id, job.state, job.operation, job.grant_id, job.created_at, job.attempts, job.rule) for job in shown],
    )
    tell_of_more(len(found) > limit, shown[-1].id)
