"""``sendq approve`` and ``sendq reject``: decide about jobs that wait for approval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from worker.cli.connection import open_operators
from worker.cli.filters import batch_option, interruptible, key_option, period_options, scope_options, tag_option
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option

F = TypeVar("F", bound=Callable[..., Any])


def _options(done: str) -> Callable[[F], F]:
    """What both commands take; ``done``: "approved"."""

    def decorate(command: F) -> F:
        for option in (
            json_option,
            dry_run_option(f"Count what would be {done}, and change nothing."),
            by_option,
            reason_option(required=False),
            period_options("Those enqueued"),
            tag_option("Those with this tag."),
            click.option(
                "--content",
                type=click.IntRange(min=0),
                metavar="N",
                help="Only if JOB still has content version N, as `sendq why` shows it (0: as enqueued). "
                "For a single JOB.",
            ),
            batch_option("All jobs of this batch, once it is closed and its search has ended."),
            scope_options("jobs"),
            key_option("The job"),
            click.argument("jobs", nargs=-1, metavar="[JOB]..."),
        ):
            command = option(command)
        return command

    return decorate


@click.command()
@_options("approved")
def approve(**given: Any) -> None:
    """Approve JOBs that wait for approval, or all jobs that match every filter: they begin when they are due.

    `sendq jobs --rule needs_approval` lists what waits. Held jobs stay held. A job whose message is replaced while the
    command runs, or after the time given with --until, is left alone. Exit status 1 if a given JOB was left as it was
    (the output says why), or if nothing matches.
    """
    _decide("approve", "approved", **given)


@click.command()
@_options("rejected")
def reject(**given: Any) -> None:
    """Reject JOBs that wait for approval, or all jobs that match every filter: they are cancelled.

    Exit status 1 if a given JOB was left as it was (the output says why), or if nothing matches.
    """
    _decide("reject", "rejected", **given)


def _decide(
    act: str,
    done: str,
    *,
    jobs: tuple[str, ...],
    key: str | None,
    content: int | None,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    from sendq import UnfinishedFilter
    from sendq.errors import NotWaiting

    given = {name for name, value in filters.items() if value is not None}
    named = bool(jobs) or key is not None
    if named == bool(given - ({"application"} if key is not None else set())) or (bool(jobs) and bool(given)):
        raise click.UsageError("give at least one JOB, or --key, or filter with --batch, --tag, --application, …")
    if content is not None and len(jobs) + (key is not None) != 1:
        raise click.UsageError("--content is for one JOB")
    with open_operators() as operators, progress_line() as show:
        if key is not None:
            jobs = (*jobs, operators.job(key=key, application=filters["application"] or "default").id)
        which = jobs if named else UnfinishedFilter(batch_id=filters.pop("batch"), **filters)
        try:
            run = (operators.approve if act == "approve" else operators.reject)(
                which, content=content, by=by, reason=reason, dry_run=dry_run
            )
            result = interruptible(
                run, show, lambda part: f"{counted(part.number, 'job')} {'would be ' * dry_run}{done}"
            )
        except NotWaiting as error:
            complain(str(error))
            raise SystemExit(FAILED) from None
    if as_json:
        tell_json({"dry_run": dry_run, done: result.number, "refused": dict(result.refused)})
    else:
        would = " would be" if dry_run else ""
        tell(f"{counted(result.number, 'job')}{would} {done}" + "; nothing was changed" * dry_run)
        for problem in result.refused.values():
            complain(problem)
    if result.refused or not result.number:
        raise SystemExit(FAILED)
