"""``sendq recover``: put a restored ledger right."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.connection import ledger_engine, read_ledger
from worker.cli.output import UNUSABLE, complain, json_option, tell, tell_json, when
from worker.cli.params import by_option, past, reason_option

if TYPE_CHECKING:
    from uuid import UUID

    from sendq.ledger.operators.recover import Unfinished


@click.command()
@click.option(
    "--since",
    type=past,
    required=True,
    metavar="TIME",
    help="When the ledger's history breaks off: the time of the backup, like 2026-07-01T09:00:00Z, or 2h.",
)
@reason_option(required=True)
@by_option
@click.option("--dry-run", is_flag=True, help="Count what would be put in doubt, and change nothing.")
@json_option
def recover(since: datetime, reason: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Put a ledger right that was restored from a backup, or failed over with loss, and open the dispatch again.

    Every send that was not finished at that time falls into doubt, and is looked for in its mailbox; changes of
    messages go back to the queue. May be run again. Exit status 2 if the ledger itself knows of something later than
    TIME.
    """
    from sendq import clock
    from sendq.ledger.dispatching import lineage

    at = clock.micros(since)
    now = clock.now()
    stands = read_ledger(lineage.read)
    if stands.known_until is not None and at + clock.SECOND < stands.known_until:
        complain(
            f"the ledger itself knows of what happened until {when(clock.moment(stands.known_until))}; "
            "give that time, or a later one"
        )
        raise SystemExit(UNUSABLE)
    if at > now:
        raise click.UsageError("--since is not past yet")
    unfinished = _count(at) if dry_run else _recover(at, by=by, reason=reason)
    if as_json:
        tell_json({"dry_run": dry_run, "in_doubt": unfinished.sends, "requeued": unfinished.changes})
        return
    would = "would " if dry_run else ""
    tell(
        f"{unfinished.sends:,} sends {would}fall into doubt, {unfinished.changes:,} changes {would}go back to the queue"
    )
    tell(
        "nothing was changed" if dry_run else "turns are dealt out again; sendq jobs --state in_doubt lists the doubts"
    )


def _count(since: int) -> Unfinished:
    from sendq.ledger.operators import recover as recovery

    return read_ledger(lambda connection: recovery.count(connection, since=since))


def _recover(since: int, *, by: str, reason: str) -> Unfinished:
    """Part by part; the last step opens the dispatch."""
    from sendq import clock
    from sendq.ledger.db.engine import writing
    from sendq.ledger.operators import recover as recovery

    sends = changes = 0
    after: UUID | None = None
    with ledger_engine() as engine:
        while True:
            with writing(engine) as connection:
                part, after = recovery.put_in_doubt(connection, since=since, now=clock.now(), after=after)
            sends, changes = sends + part.sends, changes + part.changes
            if after is None:
                break
        with writing(engine) as connection:
            recovery.open_again(connection, by=by, reason=reason, now=clock.now())
    return recovery.Unfinished(sends, changes)
