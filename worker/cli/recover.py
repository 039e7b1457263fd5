"""``sendq recover``: put a restored ledger right."""

from __future__ import annotations

from datetime import datetime

import click

from worker.cli.connection import open_operators
from worker.cli.output import json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, past, reason_option


@click.command()
@click.option(
    "--since",
    type=past,
    metavar="TIME",
    help="When the ledger's history ends: the time of the backup, like 2026-07-01T09:00:00Z, or how long ago, like 2h.",
)
@click.option(
    "--nothing-lost",
    is_flag=True,
    help="The ledger is complete (it was not restored, and no replica took over): resume dispatching, change no job.",
)
@reason_option(required=True)
@by_option
@dry_run_option("Count what would be put in doubt, and change nothing.")
@json_option
def recover(since: datetime | None, nothing_lost: bool, reason: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Repair a ledger that was restored from a backup, or failed over with data loss, and resume dispatching.

    Every send that was unfinished at TIME and is due is put in doubt and searched for in its mailbox; changes of
    messages return to the queue. Safe to run again. Exit status 2 if the ledger has records later than TIME.
    """
    if (since is None) != nothing_lost:
        raise click.UsageError("give either --since TIME or --nothing-lost")
    with open_operators() as operators, progress_line() as show:
        run = operators.recover(since, by=by, reason=reason, dry_run=dry_run)
        for part in run:
            show(f"{part.in_doubt:,} sends {'would be ' * part.dry_run}put in doubt")
        result = run.finish()
    if as_json:
        tell_json({"dry_run": dry_run, "in_doubt": result.in_doubt, "requeued": result.requeued})
        return
    would = "would be " if dry_run else ""
    tell(f"{result.in_doubt:,} sends {would}put in doubt, {result.requeued:,} changes {would}returned to the queue")
    tell("nothing was changed" if dry_run else "dispatching resumes; to list the doubts: sendq jobs --state in_doubt")
