"""Processes: demo, up, worker, webhooks, simulator."""

from __future__ import annotations

import os

import click

from worker.cli.door import load_settings, open_queue, read_ledger
from worker.cli.output import complain, tell

PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}


@click.command()
def demo() -> None:
    """Watch the whole system at work for half a minute, on this machine alone; nothing is left behind."""
    from worker.demo.run import run_demo

    raise SystemExit(run_demo())


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many worker processes.")
@click.option("--flower", is_flag=True, help="Start Flower as well, on this machine's port 5555.")
def up(workers: int, flower: bool) -> None:
    """Everything on one machine: a migrated ledger, a broker (REDIS_URL, or an embedded Redis), workers.

    Ctrl-C or SIGTERM stops it all; calls on the wire are finished first.
    """
    from worker.processes.up import up as run_up

    raise SystemExit(run_up(load_settings(), workers=workers, flower=flower, environ=os.environ, say=complain))


@click.command(context_settings={**PASSED_ON, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(arguments: tuple[str, ...]) -> None:
    """A worker for production: `celery -A worker worker` with our defaults; ARGUMENTS are Celery's (-E, -n NAME …).

    Needs DATABASE_URL, REDIS_URL and an API key. Becomes Celery's process, so signals reach it directly. Celery's own
    options are listed by: celery worker --help
    """
    from worker.processes.children import with_checkout, worker_argv

    if {"-h", "--help"} & set(arguments):  # Celery's would load our application, which needs settings
        tell(click.get_current_context().get_help())
        return
    settings = load_settings()
    settings.require_keys()
    settings.broker_url  # noqa: B018  # raises while there is none
    read_ledger(lambda _connection: None)  # refuses a ledger that is away, or not this version's
    argv = worker_argv(*arguments)
    os.execve(argv[0], argv, with_checkout(os.environ))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
def webhooks(host: str, port: int) -> None:
    """Take in Nylas's webhooks about grants, for every application that has a webhook secret.

    `default` is answered at /, each other application at /NAME. Nylas speaks to HTTPS alone: put a proxy in front that
    leaves bodies as they are (the signature is that of the bytes) and passes on x-nylas-signature.
    """
    from settings.logs import start_logs
    from worker.processes.webhooks import secrets_of, serve

    settings = load_settings()
    secrets = secrets_of(settings)
    read_ledger(lambda _connection: None)  # refuses a ledger that is away, or not this version's
    start_logs(settings)
    with open_queue() as queue:
        serve(queue, secrets, host=host, port=port, say=tell)


@click.command(context_settings={**PASSED_ON, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulator(arguments: tuple[str, ...]) -> None:
    """A stand-in for the Nylas v3 API on a real socket; it sends nothing."""
    from sendq.simulator.__main__ import main as simulate

    raise SystemExit(simulate(list(arguments), prog="sendq simulator"))


COMMANDS = (demo, up, worker, webhooks, simulator)
