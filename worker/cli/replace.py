"""``sendq replace``: another message for a send that waits."""

from __future__ import annotations

import click

from worker.cli.connection import open_queue
from worker.cli.message_file import message_option, read_message, tell_problems
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option


@click.command()
@click.argument("job")
@message_option("JSON with all fields of the new message, as in the HTTP API; files in base64. - reads stdin.")
@click.option(
    "--content",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if JOB still has content version N, as `sendq why` shows it (0: as enqueued).",
)
@click.option(
    "--skip-suppressed", is_flag=True, help="Leave suppressed recipients out instead of refusing the message."
)
@reason_option(required=False)
@by_option
@dry_run_option("Check the message and the job, and change nothing.")
@json_option
def replace(
    job: str,
    message: str,
    content: int | None,
    skip_suppressed: bool,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Replace the message of JOB, a send that waits: the same job and key, with other content.

    Its times, priority, hold, tags and batch stay; if it was approved, it waits for approval again. With the database
    roles of deploy/roles.sql this needs sendq_worker.

    Exit status 1 if the message is refused, or if JOB no longer waits: its call is being made, its outcome is unknown,
    or it ended.
    """
    from sendq import InvalidJob, NotWaiting

    try:
        new = read_message(message)
        with open_queue() as queue:
            before = queue.job(job).content_version if content is None else content
            replaced = queue.replace(
                job, new, content=before, suppressed="drop" if skip_suppressed else "refuse", by=by, reason=reason,
                dry_run=dry_run,
            )  # fmt: skip
            after = queue.job(job).content_version
    except InvalidJob as wrong:
        tell_problems(message, wrong.problems)
        complain("nothing was changed")
        raise SystemExit(FAILED) from None
    except NotWaiting as error:
        complain(str(error))
        raise SystemExit(FAILED) from None
    if as_json:
        tell_json({
            "job_id": replaced.id, "content_version": after, "replaced": after != before,
            "dropped": list(replaced.dropped), "dry_run": dry_run,
        })  # fmt: skip
        return
    if dry_run:
        tell(f"the message of {replaced.id}, content version {before}, would be replaced; nothing was changed")
    elif after == before:
        tell(f"{replaced.id} has this message already: content version {after}")
    else:
        tell(f"the message of {replaced.id} is replaced: content version {after}")
    if replaced.dropped:
        tell(f"{counted(len(replaced.dropped), 'suppressed recipient')} left out: {', '.join(replaced.dropped)}")
