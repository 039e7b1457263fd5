"""``sendq deliveries``: outcomes, and who was told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import read_ledger
from worker.cli.deliveries_retry import retry_deliveries
from worker.cli.filters import grant_options, id_of, lane_of
from worker.cli.output import json_option, tell, tell_json, tell_table, when

if TYPE_CHECKING:
    from sqlalchemy import Row


# Spelled out, so that --help needs no import of the ledger; a test holds them to its own.
STATES = ("waiting", "delivered", "given_up")


KINDS = ("cancelled", "dead", "expired", "in_doubt", "sent", "batch_finished", "reauth_required")


@click.group(invoke_without_command=True)
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only these; repeatable.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these; repeatable.")
@click.option("--receiver", help="Only those to this receiver, as the list names it.")
@click.option("--job", help="Only those about this job.")
@click.option("--batch", help="Only those about this batch.")
@grant_options("Only those about this grant and its jobs.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
@click.pass_context
def deliveries(
    context: click.Context,
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    receiver: str | None,
    job: str | None,
    batch: str | None,
    grant: str | None,
    application: str,
    limit: int,
    as_json: bool,
) -> None:
    """Outcomes and who was told of them, the newest first."""
    if context.invoked_subcommand is not None:
        return
    from sendq.ledger.deliveries import Wanted, listed

    if job is not None and batch is not None:
        raise click.UsageError("name either --job or --batch")
    wanted = Wanted(
        states=states,
        kinds=kinds,
        receiver=receiver,
        subject=id_of(job, "job") if job is not None else id_of(batch, "batch"),
        lane_id=lane_of(application, grant),
    )
    rows = read_ledger(lambda connection: listed(connection, wanted, limit=limit))
    if as_json:
        tell_json([_as_json(row) for row in rows])
        return
    if not rows:
        tell("no outcome fits")
        return
    columns = ("delivery", "kind", "about", "receiver", "state", "tries", "at", "next try", "last error")
    tell_table(columns, [_cells(row) for row in rows])


def _cells(row: Row[Any]) -> tuple[object, ...]:
    return (
        row.id, row.kind, row.subject, row.receiver, row.state.replace("_", " "), row.tries,
        _when(row.created_at), _when(_next_at(row)), row.error,
    )  # fmt: skip


def _as_json(row: Row[Any]) -> dict[str, Any]:
    import json

    times = ("created_at", "tried_at", "done_at")
    return {
        "id": str(row.id),
        "kind": row.kind,
        "receiver": row.receiver,
        "target": row.target,
        "state": row.state,
        "tries": row.tries,
        "next_at": _iso(_next_at(row)),
        **{name: _iso(row._mapping[name]) for name in times},
        "error": row.error,
        "facts": json.loads(row.facts),
    }


def _next_at(row: Row[Any]) -> int | None:
    """When it is tried next: not before its receiver is asked again."""
    return max(row.next_at, row.held_until or 0) if row.state == "waiting" else None


def _when(at: int | None) -> str:
    from sendq.clock import moment

    return "" if at is None else when(moment(at))


def _iso(at: int | None) -> str | None:
    from sendq.clock import moment

    return None if at is None else moment(at).isoformat()


deliveries.add_command(retry_deliveries)
