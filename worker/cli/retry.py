"""``sendq retry``: put dead letters back into the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import open_operators
from worker.cli.filters import act_options, interruptible, key_option, refuse_unknown_rule
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, rate_option, reason_option

if TYPE_CHECKING:
    from sendq.operators import RetryProgress

# Why a dead letter is not retried, and what to do about it; a test compares these with sendq's own reasons.
REFUSED = {
    "partly": "were delivered to some recipients, who would get them twice; --even-partly retries them anyway",
    "maybe": "may have been sent; --even-partly retries them anyway",
    "overtaken": "would undo a newer change of the same message; --even-overtaken retries them anyway",
    "cancelled": "were cancelled while their call was in flight; enqueue them again if they are still wanted",
    "forgotten": "have no body any more: its retention is over, or it was erased (sendq forget)",
    "gone": "belong to a grant that no longer exists; if it does exist: sendq release --grant …",
}

# What to do about a job that is not a dead letter.
INSTEAD = {
    "queued": "it already waits; see: sendq why",
    "sending": "its call is in flight",
    "in_doubt": "it may have been sent; resolve that first: sendq resolve",
    "sent": "it was sent",
    "cancelled": "enqueue it again if it is still wanted",
}


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@key_option("The job")
@act_options("jobs", rule="Those that this rule gave up.", period="Those given up")
@click.option("--expired", is_flag=True, help="Jobs that expired, instead of dead letters.")
@click.option("--limit", type=click.IntRange(1), help="How many at most.")
@rate_option
@click.option(
    "--even-partly",
    is_flag=True,
    help="Also mail that some recipients have received, or may have: they would get it twice.",
)
@click.option("--even-overtaken", is_flag=True, help="Also changes of messages that were changed again since.")
@reason_option(required=False)
@by_option
@dry_run_option("Count what would be retried, and change nothing.")
@json_option
def retry(
    jobs: tuple[str, ...],
    key: str | None,
    expired: bool,
    limit: int | None,
    apart_s: float | None,
    even_partly: bool,
    even_overtaken: bool,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Retry dead letters, or jobs that expired: the given JOBs, or all that match every given filter.

    Bodies and past attempts are kept, the count of attempts starts again, and the request gets a new idempotency key.
    Exit status 1 if a given JOB is not retried.
    """
    from sendq import DeadLetterFilter

    rule, batch = filters["rule"], filters.pop("batch")
    given = {name for name, value in filters.items() if value is not None} | ({"batch"} if batch else set())
    named = bool(jobs) or key is not None
    if named == bool(given - ({"application"} if key is not None else set())) or (named and expired):
        raise click.UsageError("give at least one JOB, or --key, or filter with --rule, --grant, --batch, --since, …")
    with open_operators() as operators, progress_line() as show:
        if key is not None:
            jobs = (*jobs, operators.job(key=key, application=filters["application"] or "default").id)
        state = "expired" if expired else "dead"
        run = operators.retry(
            jobs if named else DeadLetterFilter(**filters, batch_id=batch, state=state),
            by=by,
            reason=reason,
            limit=limit,
            apart_s=apart_s or 0.0,
            even_partly=even_partly,
            even_overtaken=even_overtaken,
            dry_run=dry_run,
        )
        result = interruptible(run, show, lambda part: f"{part.retried:,} {'would be ' * dry_run}retried")
    if not (result.retried or result.refused):
        refuse_unknown_rule(rule)
    if as_json:
        tell_json(
            {"dry_run": dry_run, "retried": result.retried, "jobs": result.jobs if named else None}
            | {"refused": dict(result.refused), "not_dead": dict(result.not_dead)}
        )
    else:
        _tell(result, "job that expired" if expired else "dead letter")
    if named and (result.not_dead or result.refused):
        raise SystemExit(FAILED)


def _tell(result: RetryProgress, noun: str) -> None:
    are = (
        counted(result.retried, noun)
        if noun == "dead letter" or result.retried == 1
        else (f"{result.retried:,} jobs that expired")
    )
    tell(f"{are} would be retried; nothing was changed" if result.dry_run else f"{are} retried")
    for reason, count in sorted(result.refused.items()):
        tell(f"{count:,} not retried: they {REFUSED[reason]}")
    for job, state in result.not_dead.items():
        complain(f"{job} is " + (f"{state}, not a dead letter: {INSTEAD[state]}" if state else "not in this ledger"))
