"""``sendq cancel``: cancel a job, a batch, or every unfinished job that matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.batch_text import batch_lines
from worker.cli.connection import open_operators
from worker.cli.filters import act_options, interruptible, key_option, refuse_unknown_rule
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option

if TYPE_CHECKING:
    from sendq.operators import CancelProgress

MEANING = {
    "cancelled": "it will not go out",
    "sending": "its call is in flight; it is cancelled if the answer says that it did not go out",
    "in_doubt": "it may have gone out; it is not tried again, and is cancelled once it is known not to have gone out",
}

MANY = {
    "cancelled": "will not go out",
    "sending": "in flight, cancelled if the answer says that they did not go out",
    "in_doubt": "may have gone out; they are not tried again",
}


@click.command()
@click.argument("job", required=False)
@key_option("The job")
@act_options("jobs", rule="Jobs last decided by this rule.", period="Jobs enqueued")
@reason_option(required=False)
@by_option
@dry_run_option("Show what would be cancelled, and change nothing.")
@json_option
def cancel(
    job: str | None, key: str | None, reason: str | None, by: str, dry_run: bool, as_json: bool, **filters: Any
) -> None:
    """Cancel JOB, or every unfinished job that matches all filters, and print what became of it.

    With --batch alone: the whole batch, its search for further messages included. Exit status 1 if JOB had already
    ended in another way or is in doubt, or if there is nothing to cancel.
    """
    named = (job is not None) + (key is not None)
    given = {name for name, value in filters.items() if value is not None} - ({"application"} if key else set())
    if named + bool(given) != 1:
        raise click.UsageError("give one of JOB, --key, and filters like --batch or --grant")
    act = {"by": by, "reason": reason, "dry_run": dry_run}
    if named:
        _cancel_one(job, key, filters["application"] or "default", act, as_json=as_json)
    elif given == {"batch"}:
        _cancel_batch(filters["batch"], act, as_json=as_json)
    else:
        _cancel_many(filters, act, as_json=as_json)


def _cancel_one(job: str | None, key: str | None, application: str, act: dict[str, Any], *, as_json: bool) -> None:
    with open_operators() as operators:
        found = job or operators.job(key=key, application=application).id
        result = operators.cancel(found, **act)
    if as_json:
        named = {"job_id": found} if key is None else {"job_id": found, "key": key}
        followers = {"followers": result.followers} if result.followers else {}
        tell_json(named | {"state": result.state.value, "dry_run": result.dry_run} | followers)
    else:
        would = "would be" if result.dry_run else "is"
        tell(f"{found} {would} {result.state}: {MEANING.get(result.state, 'it had already ended')}")
        if result.followers:
            tell(f"jobs that follow it, and end with it: {result.followers:,}")
        if result.dry_run:
            tell("nothing was changed")
    if result.state not in ("cancelled", "sending"):
        raise SystemExit(FAILED)


def _cancel_many(filters: dict[str, Any], act: dict[str, Any], *, as_json: bool) -> None:
    from sendq import UnfinishedFilter

    batch = filters.pop("batch")
    with open_operators() as operators, progress_line() as show:
        run = operators.cancel_jobs(UnfinishedFilter(**filters, batch_id=batch), **act)
        result = interruptible(
            run, show, lambda part: f"{counted(part.number, 'job')}{' would be' * part.dry_run} cancelled"
        )
    if as_json:
        tell_json({"dry_run": result.dry_run, "states": {state.value: n for state, n in result.states.items()}})
    else:
        _tell_many(result)
    if not result.number:
        refuse_unknown_rule(filters["rule"])
        raise SystemExit(FAILED)


def _tell_many(result: CancelProgress) -> None:
    would = " would be" if result.dry_run else ""
    tell(f"{counted(result.number, 'job')}{would} cancelled" + "; nothing was changed" * result.dry_run)
    for state, number in result.states.items():
        if state != "cancelled":
            tell(f"{number:,} of them: {MANY[state]}")


def _cancel_batch(batch: str, act: dict[str, Any], *, as_json: bool) -> None:
    with open_operators() as operators, progress_line() as show:
        run = operators.cancel_batch(batch, **act)
        for part in run:
            show(f"{part.batch.waiting:,} jobs still wait")
        result = run.finish()
    seen = result.batch
    if as_json:
        tell_json({**seen.as_json(), "dry_run": result.dry_run})
    else:
        for line in batch_lines(seen):
            tell(line)
        if result.dry_run and seen.finished_at is None:
            tell(f"{seen.waiting:,} would be cancelled, except those in flight; nothing was changed")
    if result.ended_before:
        complain(f"it had already ended; its dead letters, if any: sendq jobs --state dead --batch {seen.id}")
        raise SystemExit(FAILED)
