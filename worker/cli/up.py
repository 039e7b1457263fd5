"""``sendq up``: run everything on one machine."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings
from worker.cli.output import complain
from worker.cli.params import API_PORT, CONSOLE_PORT


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of worker processes.")
@click.option("--flower", is_flag=True, help="Also start Flower, on port 5555 of this machine.")
@click.option("--console", is_flag=True, help=f"Also serve the console, on port {CONSOLE_PORT} of this machine.")
@click.option("--console-port", type=click.IntRange(0, 65535), help="Serve it on this port; 0 picks a free one.")
@click.option("--api", is_flag=True, help=f"Also serve the HTTP API, on port {API_PORT} of this machine.")
@click.option("--api-port", type=click.IntRange(0, 65535), help="Serve it on this port; 0 picks a free one.")
def up(workers: int, flower: bool, console: bool, console_port: int | None, api: bool, api_port: int | None) -> None:
    """Run everything on one machine: a migrated ledger, a broker (REDIS_URL, or an embedded Redis) and workers.

    Ctrl-C or SIGTERM stops everything; calls in flight are finished first.
    """
    from worker.processes.up import up as run_up

    if console and console_port is None:
        console_port = CONSOLE_PORT
    if api and api_port is None:
        api_port = API_PORT
    raise SystemExit(
        run_up(
            load_settings(),
            workers=workers,
            flower=flower,
            console_port=console_port,
            api_port=api_port,
            environ=os.environ,
            say=complain,
        )
    )
