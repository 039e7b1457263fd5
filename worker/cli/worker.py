"""``sendq worker``: a worker for production."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings, require_ledger
from worker.cli.output import tell_lines
from worker.cli.passed_on import PASSED_ON


@click.command(context_settings={**PASSED_ON, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """Run a production worker; ARGUMENTS are those of `celery worker` (-E, -n NAME, …).

    Needs DATABASE_URL, REDIS_URL and an API key, and checks them first. It becomes the worker's process, so signals
    reach it directly. For the options see: celery worker --help
    """
    from worker.processes.children import with_packages, worker_argv

    if {"-h", "--help"} & set(arguments):  # Celery's would load our application, which needs settings
        tell_lines(click.get_current_context().get_help())
        return
    settings = load_settings()
    settings.require_keys()
    settings.broker_url  # noqa: B018  # raises while there is none
    require_ledger()
    argv = worker_argv(*arguments)
    os.execve(argv[0], argv, with_packages(os.environ))
