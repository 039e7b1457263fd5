"""Who was told of outcomes, and who was not: deliveries, and telling again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.door import open_ledger, read_ledger
from worker.cli.finding import grant_options, id_of, lane_of
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, tell_table, when
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from sqlalchemy import Row

    from sendq.ledger.deliveries import Wanted

# Spelled out, so that --help needs no import of the ledger; a test holds them to its own.
STATES = ("waiting", "delivered", "given_up")
KINDS = ("cancelled", "dead", "expired", "in_doubt", "sent", "batch_finished", "reauth_required")

# In one transaction: few enough that rows stay locked for milliseconds only.
RETRY_MOST = 500


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


@deliveries.command("retry")
@click.argument("ids", nargs=-1, metavar="[DELIVERY]...")
@click.option("--receiver", help="All that this receiver was not told of.")
@click.option("--given-up", is_flag=True, help="All that were given up.")
@reason_option(required=False)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what would be told again, and change nothing.")
@json_option
def retry_deliveries(
    ids: tuple[str, ...],
    receiver: str | None,
    given_up: bool,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Tell the named DELIVERYs at once, or all that fit every given filter, for another 72 hours.

    What a receiver has taken in is not told again. Exit status 1 if a named delivery is not retried.
    """
    from sendq.ledger.deliveries import Wanted
    from sendq.ledger.reading.lookup import parse_id

    if bool(ids) == (given_up or receiver is not None):
        raise click.UsageError("name DELIVERYs, or filter with --receiver and --given-up")
    wanted = Wanted(
        ids=[parse_id(one, what="delivery") for one in ids] if ids else None,
        states=("given_up",) if given_up else (),
        receiver=receiver,
    )
    number = _retry(wanted, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        tell_json({"dry_run": dry_run, "retried": number})
    else:
        are = "1 delivery" if number == 1 else f"{number:,} deliveries"
        tell(f"{are} would be retried; nothing was changed" if dry_run else f"{are} retried")
    if ids and number < len(set(ids)):
        complain("the others were delivered, or are not in this ledger; see: sendq deliveries")
        raise SystemExit(FAILED)


def _retry(wanted: Wanted, *, by: str, reason: str | None, dry_run: bool) -> int:
    """Part by part, each in a transaction of its own."""
    from sendq import clock
    from sendq.ledger import events
    from sendq.ledger.deliveries import retry, undelivered

    if dry_run:
        return read_ledger(lambda connection: undelivered(connection, wanted))
    number, after = 0, None
    while True:
        with open_ledger(writes=True) as connection:
            now = clock.now()
            done = retry(connection, wanted, after=after, now=now, limit=RETRY_MOST)
            if done:
                words = f"{len(done)} deliveries" + (f": {reason}" if reason else "")
                events.append(connection, "deliveries_retried", at=now, by=by, reason=words)
        number += len(done)
        if len(done) < RETRY_MOST:
            return number
        after = done[-1]


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


COMMANDS = (deliveries,)
