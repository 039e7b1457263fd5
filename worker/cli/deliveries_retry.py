"""``sendq deliveries retry``: deliver outcomes again."""

from __future__ import annotations

import click

from worker.cli.connection import open_operators
from worker.cli.output import FAILED, complain, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option


@click.command("retry")
@click.argument("ids", nargs=-1, metavar="[DELIVERY]...")
@click.option("--receiver", help="All that this receiver has not accepted.")
@click.option("--given-up", is_flag=True, help="All that were given up.")
@reason_option(required=False)
@by_option
@dry_run_option("Count what would be retried, and change nothing.")
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
    """Retry each given DELIVERY at once, or all that match every given filter, for another 72 hours.

    What a receiver has accepted is not delivered again. Exit status 1 if a given DELIVERY is not retried.
    """
    from sendq import DeliveryFilter

    if bool(ids) == (given_up or receiver is not None):
        raise click.UsageError("give at least one DELIVERY, or filter with --receiver and --given-up")
    which = ids or DeliveryFilter(states=("given_up",) if given_up else (), receiver=receiver)
    with open_operators() as operators, progress_line() as show:
        run = operators.deliver_again(which, by=by, reason=reason, dry_run=dry_run)
        for part in run:
            show(f"{part.retried:,}{' would be' * dry_run} retried")
        number = run.finish().retried
    if as_json:
        tell_json({"dry_run": dry_run, "retried": number})
    else:
        are = "1 delivery" if number == 1 else f"{number:,} deliveries"
        tell(f"{are} would be retried; nothing was changed" if dry_run else f"{are} retried")
    if ids and number < len(set(ids)):
        complain("the others were already delivered, or are not in this ledger; see: sendq deliveries")
        raise SystemExit(FAILED)
