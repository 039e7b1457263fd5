"""``sendq deliveries``: outcomes, and which receiver has them."""

from __future__ import annotations

from typing import Any

import click

from worker.cli.connection import open_operators
from worker.cli.deliveries_retry import retry_deliveries
from worker.cli.filters import (
    batch_option,
    id_of,
    page_options,
    period_options,
    scope_options,
    tell_of_more,
    whole_page,
)
from worker.cli.output import Column, json_option, tell, tell_json, tell_table

# Spelled out, so that --help needs no import of the ledger; a test holds them to its own.
STATES = ("waiting", "delivered", "given_up")
KINDS = (
    "cancelled", "dead", "expired", "in_doubt", "sent", "bounced", "complained", "delivered", "failed_later",
    "batch_finished", "reauth_required",
)  # fmt: skip


@click.group(invoke_without_command=True)
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only deliveries in this state; repeatable.")
@click.option("--kind", multiple=True, type=click.Choice(KINDS), help="Only this kind of outcome; repeatable.")
@click.option("--receiver", metavar="NAME", help="Only deliveries to this receiver, as the list names it.")
@click.option("--job", metavar="ID", help="Only deliveries about this job.")
@batch_option("Only deliveries about this batch.")
@scope_options("deliveries", of="about")
@period_options("Only outcomes that came")
@page_options()
@json_option
@click.pass_context
def deliveries(
    context: click.Context,
    /,
    state: tuple[str, ...],
    kind: tuple[str, ...],
    job: str | None,
    batch: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List the deliveries of outcomes to receivers, the latest first.

    An outcome is what became of a job, a batch or a grant. It is delivered to the receiver that the application named
    when it enqueued the job (`on_outcome`).
    """
    if context.invoked_subcommand is not None:
        return
    if job is not None and batch is not None:
        raise click.UsageError("name either --job or --batch")
    id_of(job, "job")
    id_of(batch, "batch")
    with open_operators() as operators:
        page = whole_page(
            lambda size, after: operators.deliveries(
                **filters, state=state or None, kind=kind or None, job_id=job, batch_id=batch, limit=size, cursor=after
            ),
            limit,
            cursor,
        )
    if as_json:
        tell_json(page.as_json())
        return
    if not page.items:
        tell("no deliveries match")
        return
    tell_table(
        (
            "delivery", "kind", "about", "state", "receiver", Column("tries", extra=True), Column("at", extra=True),
            Column("next try", extra=True), Column("last error", folds=True),
        ),
        [
            (
                one.id, one.kind, one.subject, one.state.replace("_", " "), one.receiver, one.tries,
                one.created_at, one.next_at, one.error,
            )
            for one in page.items
        ],
    )  # fmt: skip
    tell_of_more(page)


deliveries.add_command(retry_deliveries)
