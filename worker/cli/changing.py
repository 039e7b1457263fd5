"""What the commands that change jobs that wait have in common: ``reschedule``, ``priority``, ``hold``, ``release``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.filters import interruptible
from worker.cli.output import FAILED, complain, counted, progress_line, tell, tell_json

if TYPE_CHECKING:
    from sendq.operators import ChangeProgress, Run

F = TypeVar("F", bound=Callable[..., Any])


def named_options(command: F) -> F:
    """JOB, ``--key`` or ``--batch``: one job, or the waiting jobs of a batch."""
    for option in (
        click.option("--application", metavar="NAME", default="default", help="With --key: its application."),
        click.option("--batch", metavar="ID", help="The waiting jobs of this batch."),
        click.option("--key", metavar="KEY", help="The job or batch that was enqueued with this key."),
        click.argument("job", required=False),
    ):
        command = option(command)
    return command


def names_of(job: str | None, key: str | None, batch: str | None, application: str) -> dict[str, Any]:
    """What is named, as arguments of the acts."""
    if sum(given is not None for given in (job, key, batch)) != 1:
        raise click.UsageError("give one of JOB, --key and --batch")
    return {"job_id": job, "key": key, "batch_id": batch, "application": application}


def carry_out(run: Run[ChangeProgress], done: str, already: str, *, facts: dict[str, Any], as_json: bool) -> None:
    """Carry out a change, and print what it did; ``done`` completes "2 jobs are …", ``already`` "it is …".

    A job or batch that cannot be changed any more fails with status 1, and with its state.
    """
    from sendq.errors import NotWaiting

    try:
        with progress_line() as show:
            result = interruptible(
                run, show, lambda part: f"{counted(part.number, 'job')}{' would be' * part.dry_run} {done}"
            )
    except NotWaiting as error:
        complain(str(error))
        raise SystemExit(FAILED) from None
    if as_json:
        named = {"batch_id" if result.is_batch else "job_id": result.id}
        counts = {"changed": result.number, "left": result.left, "dry_run": result.dry_run}
        tell_json(named | facts | counts)
        return
    tell(_sentence(result, done, already))
    if result.left:
        tell(f"{counted(result.left, 'job')} of it left as they are: on the wire, of unknown outcome, or ended")
    if result.dry_run:
        tell("nothing was changed")


def _sentence(result: ChangeProgress, done: str, already: str) -> str:
    would = "would be" if result.dry_run else "is" if not result.is_batch or result.number == 1 else "are"
    if result.is_batch:
        return f"{counted(result.number, 'waiting job')} of batch {result.id} {would} {done}"
    return f"{result.id} {would} {done}" if result.number else f"{result.id} is {already}"
