"""``sendq up``: everything on one machine."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings
from worker.cli.output import complain


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many worker processes.")
@click.option("--flower", is_flag=True, help="Start Flower as well, on this machine's port 5555.")
def up(workers: int, flower: bool) -> None:
    """Everything on one machine: a migrated ledger, a broker (REDIS_URL, or an embedded Redis), workers.

    Ctrl-C or SIGTERM stops it all; calls on the wire are finished first.
    """
    from worker.processes.up import up as run_up

    raise SystemExit(run_up(load_settings(), workers=workers, flower=flower, environ=os.environ, say=complain))
