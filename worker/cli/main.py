"""All commands in one group, and how errors are reported: one sentence and an exit status, no traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence

import click

from worker.cli.api import api
from worker.cli.approve import approve, reject
from worker.cli.batch import batch
from worker.cli.cancel import cancel
from worker.cli.check import check
from worker.cli.console import console
from worker.cli.dead import dead
from worker.cli.deliveries import deliveries
from worker.cli.demo import demo
from worker.cli.events import events
from worker.cli.explain import explain
from worker.cli.flower import flower
from worker.cli.forget import forget
from worker.cli.grants import grants
from worker.cli.health import health
from worker.cli.hold import hold
from worker.cli.jobs import jobs
from worker.cli.keys import keys
from worker.cli.merge import merge
from worker.cli.migrate import migrate
from worker.cli.output import FAILED, UNUSABLE, complain
from worker.cli.password import password
from worker.cli.policy import policy
from worker.cli.priority import priority
from worker.cli.recover import recover
from worker.cli.rekey import rekey
from worker.cli.release import release
from worker.cli.replace import replace
from worker.cli.reschedule import reschedule
from worker.cli.resolve import resolve
from worker.cli.retry import retry
from worker.cli.settings import settings
from worker.cli.simulator import simulator
from worker.cli.status import status
from worker.cli.suppressions import suppressions
from worker.cli.token import token
from worker.cli.top import top
from worker.cli.undo import undo
from worker.cli.up import up
from worker.cli.warmup import warmup
from worker.cli.webhooks import webhooks
from worker.cli.why import why
from worker.cli.window import window
from worker.cli.wording import on_command_line
from worker.cli.worker import worker

INTERRUPTED = 130
# What the package's own errors say; a test compares it with theirs. Here there is a shorter command.
PACKAGE_COMMAND = "python -m sendq migrate"

# The arguments of the library that have another name here.
OPTIONS = {
    "grant_id": "--grant", "batch_id": "--batch", "job_id": "JOB", "cursor": "--after", "apart_s": "--rate",
    "due_at": "--at", "expires_at": "--expires", "jobs": "JOB", "deliveries": "DELIVERY",
    "recipients": "RECIPIENT", "file": "FILE", "name": "NAME", "grants": "--grant",
}  # fmt: skip

BROKEN_PIPE = 141  # what a shell reports of any program that its reader left

EPILOG = """\b
Exit status: 0 success; 1 not found, or failed; 2 the command line, the settings or the ledger cannot be used (stderr
says what to do); 130 after Ctrl-C. Results go to stdout, messages to stderr."""


class Commands(click.Group):
    """Lists each command with its whole first sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            rows = [(name, command.get_short_help_str(limit=1000)) for name, command in sorted(self.commands.items())]
            formatter.write_dl(rows)


@click.group(
    name="sendq",
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
def sendq() -> None:
    """A resilient send queue in front of the Nylas v3 email API.

    Settings are read from environment variables: `sendq settings` lists them, `sendq check` tests them.
    """


for command in (
    api,
    approve,
    batch,
    cancel,
    check,
    console,
    dead,
    deliveries,
    demo,
    events,
    explain,
    flower,
    forget,
    grants,
    health,
    hold,
    jobs,
    keys,
    merge,
    migrate,
    password,
    policy,
    priority,
    recover,
    reject,
    rekey,
    release,
    replace,
    reschedule,
    resolve,
    retry,
    settings,
    simulator,
    status,
    suppressions,
    token,
    top,
    undo,
    up,
    webhooks,
    warmup,
    why,
    window,
    worker,
):
    sendq.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stderr is None:  # closed, and print would write messages to stdout
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        complain("stdout is closed; to throw the output away, redirect it to /dev/null")
        return UNUSABLE
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its number instead of a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has left. Python would complain again when it closes stdout, so it gets another one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        if not _is_of_stdout(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as above
        complain(f"stdout: {error.strerror}; the output is not complete")
        return UNUSABLE


def _is_of_stdout(error: OSError) -> bool:
    """Whether this is why the output could not be written: a full disk, a terminal that has gone."""
    if error.filename is not None:
        return False
    try:
        sys.stdout.flush()  # fails again: what could not be written is still there
    except OSError:
        return True
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # without a buffer


def _run(arguments: Sequence[str] | None) -> int:
    try:
        # Not sendq.main(): click would answer a reader that leaves with another status.
        with sendq.make_context("sendq", list(sys.argv[1:] if arguments is None else arguments)) as context:
            sendq.invoke(context)
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (BrokenPipeError, KeyboardInterrupt, click.Abort):
        raise
    except OSError as error:
        if _is_of_stdout(error):
            raise
        return _explained(error)
    except Exception as error:
        return _explained(error)


def _explained(error: Exception) -> int:
    """The exit status of an error that a person can fix; any other is a bug, and raised again."""
    from sqlalchemy.exc import DBAPIError

    from sendq.errors import InvalidArgument, LedgerUnavailable, NotFound, SendqError
    from settings.errors import SettingsError
    from worker.redis.embedded import EmbeddedError

    if isinstance(error, InvalidArgument):
        for problem in error.problems:
            complain(on_command_line(f"{_option_of(problem.field)} {problem.reason}; {problem.remedy}"))
        return UNUSABLE
    if isinstance(error, NotFound):
        lists = "sendq deliveries" if str(error).startswith("there is no delivery") else "sendq jobs"
        says = on_command_line(str(error))
        complain(says if "see: sendq " in says else f"{says}; see: {lists}")
        return FAILED
    if isinstance(error, SettingsError | SendqError | EmbeddedError):
        says = on_command_line(str(error).replace(PACKAGE_COMMAND, "sendq migrate"))
        names_a_command = "sendq " in says or not isinstance(error, LedgerUnavailable)
        complain(says if names_a_command else f"{says}; to diagnose: sendq check")
        return UNUSABLE
    if isinstance(error, DBAPIError):
        # The driver's own words may quote names and addresses; `check` knows what the usual ones mean.
        complain(f"the database reported an error ({type(error.orig).__name__}); run: sendq check")
        return UNUSABLE
    if isinstance(error, OSError) and error.filename is not None:
        complain(f"{error.filename}: {error.strerror}; check the path and its permissions")
        return UNUSABLE
    raise error


def _option_of(field: str) -> str:
    """What an argument of the library is called on the command line."""
    if field.startswith(("line ", "recipients[")):  # of a file, or an argument
        return field.replace("recipients", "RECIPIENT")
    return OPTIONS.get(field, f"--{field.replace('_', '-')}")
