"""``sendq replace``: another message for a send that waits."""

from __future__ import annotations

import click

from worker.cli.connection import open_queue
from worker.cli.filters import key_option
from worker.cli.message_file import message_option, read_message, tell_problems
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, one_of, reason_option


@click.command()
@click.argument("job", required=False)
@key_option("The job")
@click.option("--application", metavar="NAME", default="default", help="With --key: its application.")
@message_option("JSON with all fields of the new message, as in the HTTP API; files in base64.")
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
    job: str | None,
    key: str | None,
    application: str,
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

    It does not know `senders=` or `suppressed=` of your application's queue. If you use those, replace from your
    application, or mount the console with `queue=` set to your queue.

    Exit status 1 if the message is refused, if JOB has another content version, or if it no longer waits: its call is
    being made, its outcome is unknown, or it ended. 2 if JOB is not a send, or the command cannot be used as it is.
    """
    from sendq import InvalidJob, NotWaiting

    one_of(job, key, "JOB")
    try:
        new = read_message(message)
        with open_queue() as queue:
            found = job or queue.job(key=key, application=application).id
            made = queue.replace(
                found, new, content=content, suppressed="drop" if skip_suppressed else "refuse", by=by, reason=reason,
                dry_run=dry_run,
            )  # fmt: skip
    except InvalidJob as wrong:
        tell_problems(message, wrong.problems)
        complain("nothing was changed")
        raise SystemExit(FAILED) from None
    except NotWaiting as error:
        complain(str(error))
        raise SystemExit(FAILED) from None
    if as_json:
        tell_json({
            "job_id": made.id, "content_version": made.content_version, "replaced": made.replaced,
            "dropped": list(made.dropped), "dry_run": dry_run,
        })  # fmt: skip
        return
    version = f"content version {made.content_version}"
    if not made.replaced:
        tell(f"{made.id} has this message already: {version}" + "; nothing was changed" * dry_run)
    elif dry_run:
        tell(f"the message of {made.id}, {version}, would be replaced; nothing was changed")
    else:
        tell(f"the message of {made.id} is replaced: {version}")
    if made.dropped:
        would = " would be" if dry_run else ""
        tell(f"{counted(len(made.dropped), 'suppressed recipient')}{would} left out: {', '.join(made.dropped)}")
