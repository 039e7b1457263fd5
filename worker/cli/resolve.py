"""``sendq resolve``: resolve jobs in doubt by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import open_operators
from worker.cli.filters import act_options, interruptible, key_option, refuse_unknown_rule
from worker.cli.output import FAILED, complain, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, rate_option, reason_option

if TYPE_CHECKING:
    from sendq.operators import ResolveProgress

# Spelled out, so that --help needs no import; a test compares them with sendq's own.
ANSWERS = ("sent", "resend", "dead")

DONE = {"sent": "resolved as sent", "resend": "sent again, with a new idempotency key", "dead": "given up"}

WARNING = "anybody who already has such a message gets it twice; check the account's sent mail"

# Why a job is not sent again; a test compares these with sendq's own reasons.
REFUSED = {
    "cancelled": "were cancelled; resolve them as sent or dead",
    "gone": "belong to a grant that no longer exists; resolve them as sent or dead",
    "went_out": "went out, as Nylas reports; resolve them as sent",
}


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.argument("answer", type=click.Choice(ANSWERS))
@key_option("The job")
@act_options("jobs", rule="Those that this rule put in doubt.", period="Those enqueued")
@click.option("--all-in-doubt", is_flag=True, help="All jobs in doubt.")
@click.option("--message-id", metavar="ID", help="With one JOB and sent: the id of the message that was sent.")
@rate_option
@reason_option(required=True)
@by_option
@dry_run_option("Count what would be resolved, and change nothing.")
@json_option
def resolve(
    jobs: tuple[str, ...],
    answer: str,
    key: str | None,
    all_in_doubt: bool,
    message_id: str | None,
    apart_s: float | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Resolve jobs in doubt by hand: they were sent, are to be sent again (resend), or are given up (dead).

    The given JOBs, or all that match every given filter. What is sent again may reach people twice. Exit status 1 if a
    given JOB is not resolved.
    """
    from sendq import DoubtFilter

    rule, batch = filters["rule"], filters.pop("batch")
    given = {name for name, value in filters.items() if value is not None} | ({"batch"} if batch else set())
    given -= {"application"} if key is not None else set()
    named = bool(jobs) or key is not None
    if named == (bool(given) or all_in_doubt):
        raise click.UsageError(
            "give at least one JOB, or --key, or filter with --rule, --grant, --batch, …, or give --all-in-doubt"
        )
    with open_operators() as operators, progress_line() as show:
        if key is not None:
            jobs = (*jobs, operators.job(key=key, application=filters["application"] or "default").id)
        which = jobs if named else DoubtFilter(**filters, batch_id=batch)
        run = operators.resolve(
            which, answer, by=by, reason=reason, message_id=message_id, apart_s=apart_s or 0.0, dry_run=dry_run
        )
        result = interruptible(run, show, lambda part: f"{part.resolved:,}{' would be' * dry_run} resolved")
    if not (result.resolved or result.refused):
        refuse_unknown_rule(rule)
    if as_json:
        tell_json(
            {"dry_run": dry_run, "answer": answer, "resolved": result.resolved, "jobs": result.jobs if named else None}
            | {"refused": dict(result.refused), "not_in_doubt": dict(result.not_in_doubt)}
        )
    else:
        _tell(result)
    for job, state in result.not_in_doubt.items():
        complain(f"{job} is " + (f"{state}, not in doubt" if state else "not in this ledger"))
    if answer == "resend" and result.resolved:
        complain(WARNING)
    if named and (result.not_in_doubt or result.refused):
        raise SystemExit(FAILED)


def _tell(result: ResolveProgress) -> None:
    jobs = "1 job in doubt" if result.resolved == 1 else f"{result.resolved:,} jobs in doubt"
    done = DONE[result.answer]
    tell(f"{jobs} would be {done}; nothing was changed" if result.dry_run else f"{jobs} {done}")
    for reason, count in sorted(result.refused.items()):
        tell(f"{count:,} not sent again: they {REFUSED[reason]}")
