"""``sendq priority``: change the priority of a job that waits, or of those of a batch."""

from __future__ import annotations

import click

from worker.cli.changing import carry_out, named_options, names_of
from worker.cli.connection import open_operators
from worker.cli.output import json_option
from worker.cli.params import by_option, dry_run_option, reason_option

# Spelled out, so that --help needs no import; a test compares them with sendq's own.
PRIORITIES = ("high", "normal", "low")


@click.command()
@named_options
@click.option("--to", "level", type=click.Choice(PRIORITIES), required=True, help="The new priority.")
@reason_option(required=False)
@by_option
@dry_run_option("Check and count, and change nothing.")
@json_option
def priority(
    job: str | None,
    key: str | None,
    batch: str | None,
    application: str,
    level: str,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change the priority of JOB, or of the waiting jobs of a batch: which jobs of a grant go first.

    Exit status 1 if JOB no longer waits: its call is being made, its outcome is unknown, or it ended.
    """
    named = names_of(job, key, batch, application)
    with open_operators() as operators:
        run = operators.set_priority(**named, priority=level, by=by, reason=reason, dry_run=dry_run)
        words = f"set to {level} priority"
        carry_out(run, words, f"already {words}", facts={"priority": level}, as_json=as_json)
