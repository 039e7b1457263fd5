"""``sendq jobs``: list jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.connection import open_operators
from worker.cli.filters import (
    batch_option,
    id_of,
    key_option,
    page_options,
    period_options,
    refuse_unknown_rule,
    rule_option,
    scope_options,
    tag_option,
    tell_of_more,
    whole_page,
)
from worker.cli.output import Column, json_option, tell, tell_json, tell_table
from worker.cli.params import any_time

if TYPE_CHECKING:
    from sendq.views import JobLine, Page

F = TypeVar("F", bound=Callable[..., Any])

# Spelled out, so that --help needs no import of the package's own lists; a test holds them together.
STATES = ("queued", "sending", "in_doubt", "sent", "dead", "cancelled", "expired")
OPERATIONS = ("send", "modify", "delete", "list", "read", "restore")
PRIORITIES = ("high", "normal", "low")
NOT_COUNTED = ("key", "due_since", "due_until", "expires_since", "expires_until")
DELIVERIES = ("failed_later", "rejected", "confirmed", "delivered", "bounced", "complained")


def _times(command: F) -> F:
    """``--due-since`` and the like."""
    words = {"due": ("Only jobs due", ""), "expires": ("Only waiting jobs that expire", ", soonest first")}
    for name, (what, order) in words.items():
        for edge, when in (("until", "before"), ("since", "at or after")):
            help_ = f"{what} {when} TIME{order}: like 2026-07-01T09:00:00Z, 2h (ago) or +6h (from now)."
            command = click.option(f"--{name}-{edge}", type=any_time, metavar="TIME", help=help_)(command)
    return command


@click.command()
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only jobs in this state; repeatable.")
@rule_option("Only jobs last decided by this rule (sendq policy lists them).")
@scope_options("jobs")
@batch_option("Only jobs of this batch.")
@tag_option("Only jobs with this tag.")
@click.option(
    "--operation",
    type=click.Choice(OPERATIONS),
    help="Only this operation (list: a search for the messages of a batch).",
)
@click.option("--priority", type=click.Choice(PRIORITIES), help="Only this priority.")
@click.option(
    "--delivery",
    multiple=True,
    type=click.Choice(DELIVERIES),
    help="Only mail with this delivery status; repeatable.",
)
@key_option("Only the job, or the jobs of the batch,")
@period_options("Only jobs enqueued")
@_times
@page_options()
@click.option("--count", "counts", is_flag=True, help="Show only how many there are in each state, up to 100,000.")
@json_option
def jobs(
    state: tuple[str, ...],
    delivery: tuple[str, ...],
    batch: str | None,
    limit: int,
    cursor: str | None,
    counts: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the jobs that match every filter, the most recently enqueued first.

    What expires within six hours: sendq jobs --expires-until +6h

    What waits for approval: sendq jobs --rule needs_approval
    """
    id_of(batch, "batch")
    filters |= {"state": state or None, "delivery": delivery or None, "batch_id": batch}
    if counts:
        _count(filters, as_json=as_json)
        return
    with open_operators() as operators:
        page = whole_page(lambda size, after: operators.jobs(**filters, limit=size, cursor=after), limit, cursor)
    if not page.items:
        refuse_unknown_rule(filters["rule"])
    if as_json:
        tell_json(page.as_json())
        return
    if not page.items:
        tell("no jobs match")
        return
    _tell(page)


def _tell(page: Page[JobLine]) -> None:
    tell_table(
        (
            "job",
            "state",
            "grant",
            Column("rule"),
            Column("due"),
            Column("approve by", extra=True),
            Column("content version", extra=True),
            Column("operation", extra=True),
            Column("key", extra=True),
            Column("tags", extra=True),
            Column("enqueued", extra=True),
            Column("expires", extra=True),
            Column("attempts used", extra=True),
        ),
        [
            (
                job.id,
                job.state,
                job.grant_id,
                job.rule,
                job.due_at,
                job.approve_by if job.state == "queued" and job.approved_at is None else None,
                job.content_version or None,
                job.operation,
                job.key,
                " ".join(f"{key}={value}" for key, value in job.tags.items()),
                job.created_at,
                job.expires_at if job.state == "queued" else None,
                job.attempts,
            )
            for job in page.items
        ],
    )
    tell_of_more(page)


def _count(filters: dict[str, Any], *, as_json: bool) -> None:
    unused = sorted(name for name in NOT_COUNTED if filters.pop(name) is not None)
    if unused:
        raise click.UsageError(f"--count does not go with --{unused[0].replace('_', '-')}")
    with open_operators() as operators:
        found = operators.count_jobs(**filters)
    if as_json:
        tell_json(found.as_json())
        return
    if not found.number:
        refuse_unknown_rule(filters["rule"])
        tell("no jobs match")
        return
    tell_table(("state", "jobs"), [(state.value, f"{number:,}") for state, number in found.states.items()])
    if found.more:
        tell("there are more: only so many were counted")
