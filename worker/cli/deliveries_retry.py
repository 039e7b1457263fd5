"""``sendq deliveries retry``: tell receivers again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_ledger, read_ledger
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option

if TYPE_CHECKING:
    from sendq.ledger.deliveries import Wanted


# In one transaction: few enough that rows stay locked for milliseconds only.
RETRY_MOST = 500


@click.command("retry")
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
