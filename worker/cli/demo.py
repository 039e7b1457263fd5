"""``sendq demo``: the whole system at work for half a minute."""

from __future__ import annotations

import click


@click.command()
def demo() -> None:
    """Watch the whole system at work for half a minute, on this machine alone; nothing is left behind."""
    from worker.demo.run import run_demo

    raise SystemExit(run_demo())
