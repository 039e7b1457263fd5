"""``sendq reschedule``: change when a job that waits, or those of a batch, may begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import click

from worker.cli.changing import carry_out, named_options, names_of
from worker.cli.connection import open_operators
from worker.cli.output import json_option, when
from worker.cli.params import by_option, dry_run_option, duration, reason_option, time


@click.command()
@named_options
@click.option("--at", type=time, metavar="TIME", help="No earlier than this, like 2026-07-01T09:00:00Z.")
@click.option("--in", "after", type=duration, metavar="DURATION", help="No earlier than after this, like 30m or 2d.")
@click.option("--now", "at_once", is_flag=True, help="At once; a wait before a retry ends too.")
@click.option("--expires", type=time, metavar="TIME", help="Its new expiry (default: unchanged).")
@click.option("--never-expires", is_flag=True, help="It does not expire.")
@reason_option(required=False)
@by_option
@dry_run_option("Check and count, and change nothing.")
@json_option
def reschedule(
    job: str | None,
    key: str | None,
    batch: str | None,
    application: str,
    at: datetime | None,
    after: timedelta | None,
    at_once: bool,
    expires: datetime | None,
    never_expires: bool,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change when JOB, or the waiting jobs of a batch, may begin.

    A hold remains. Exit status 1 if JOB no longer waits: its call is being made, its outcome is unknown, or it ended.
    """
    from sendq import NEVER, InvalidArgument

    if (at is not None) + (after is not None) + at_once != 1:
        raise click.UsageError("give one of --at, --in and --now")
    if expires is not None and never_expires:
        raise click.UsageError("give --expires or --never-expires, not both")
    named = names_of(job, key, batch, application)
    due_at = datetime.now(UTC) + after if after is not None else at
    expires_at = NEVER if never_expires else expires
    with open_operators() as operators:
        run = operators.reschedule(**named, due_at=due_at, expires_at=expires_at, by=by, reason=reason, dry_run=dry_run)
        facts = {"due_at": None if due_at is None else due_at.isoformat()}
        start = _start(due_at)
        try:
            carry_out(run, f"due {start}", f"already due {start}", facts=facts, as_json=as_json)
        except InvalidArgument as error:
            if after is None:
                raise
            problems = [replace(one, field="in") if one.field == "due_at" else one for one in error.problems]
            raise InvalidArgument(problems) from None


def _start(due_at: datetime | None) -> str:
    if due_at is None:
        return "now"
    return "at once: the time given is past" if due_at <= datetime.now(UTC) else when(due_at)
