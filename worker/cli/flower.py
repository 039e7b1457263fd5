"""``sendq flower``: Flower, the web page that shows each attempt."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings
from worker.cli.output import tell_lines
from worker.cli.passed_on import PASSED_ON


@click.command(context_settings={**PASSED_ON, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def flower(arguments: tuple[str, ...]) -> None:
    """Run Flower, read-only, on 127.0.0.1:5555; ARGUMENTS are those of `celery flower` (--port, --address, …).

    Needs REDIS_URL. It gets no other setting that may be a secret. Workers report to it if they run with -E.
    """
    from worker.processes.children import flower_argv, with_packages
    from worker.processes.up import for_flower

    if {"-h", "--help"} & set(arguments):
        tell_lines(click.get_current_context().get_help())
        return
    broker_url = load_settings().broker_url.get_secret_value()  # raises while there is none
    environ = {"FLOWER_ADDRESS": "127.0.0.1", **for_flower(with_packages(os.environ)), "REDIS_URL": broker_url}
    argv = flower_argv(*arguments)
    os.execve(argv[0], argv, environ)
