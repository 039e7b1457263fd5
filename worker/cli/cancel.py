"""``sendq cancel``: cancel a job or a batch."""

from __future__ import annotations

import click

from worker.cli.batch_text import batch_lines
from worker.cli.connection import open_operators
from worker.cli.output import FAILED, complain, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option

MEANING = {
    "cancelled": "it will not go out",
    "sending": "its call is in flight; it is cancelled if the answer says that it did not go out",
    "in_doubt": "it may have gone out; it is not tried again, and is cancelled once it is known not to have gone out",
}


@click.command()
@click.argument("job", required=False)
@click.option(
    "--batch", metavar="ID", help="All jobs of this batch that have not gone out, and its search for further messages."
)
@reason_option(required=False)
@by_option
@dry_run_option("Show what would be cancelled, and change nothing.")
@json_option
def cancel(job: str | None, batch: str | None, reason: str | None, by: str, dry_run: bool, as_json: bool) -> None:
    """Cancel JOB, or a batch, and print its state afterwards.

    Exit status 1 if it had already ended in another way, or is in doubt.
    """
    if (job is None) == (batch is None):
        raise click.UsageError("give either JOB or --batch ID")
    if batch is not None:
        _cancel_batch(batch, by=by, reason=reason, dry_run=dry_run, as_json=as_json)
        return
    assert job is not None
    with open_operators() as operators:
        result = operators.cancel(job, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        tell_json({"job_id": job, "state": result.state.value, "dry_run": dry_run})
    else:
        would = "would be" if dry_run else "is"
        tell(f"{job} {would} {result.state}: {MEANING.get(result.state, 'it had already ended')}")
        if dry_run:
            tell("nothing was changed")
    if result.state not in ("cancelled", "sending"):
        raise SystemExit(FAILED)


def _cancel_batch(batch: str, *, by: str, reason: str | None, dry_run: bool, as_json: bool) -> None:
    with open_operators() as operators, progress_line() as show:
        run = operators.cancel_batch(batch, by=by, reason=reason, dry_run=dry_run)
        for part in run:
            show(f"{part.batch.waiting:,} jobs still wait")
        result = run.finish()
    seen = result.batch
    if as_json:
        tell_json({**seen.as_json(), "dry_run": dry_run})
    else:
        for line in batch_lines(seen):
            tell(line)
        if dry_run and seen.finished_at is None:
            tell(f"{seen.waiting:,} would be cancelled, except those in flight; nothing was changed")
    if result.ended_before:
        complain(f"it had already ended; its dead letters, if any: sendq jobs --state dead --batch {seen.id}")
        raise SystemExit(FAILED)
