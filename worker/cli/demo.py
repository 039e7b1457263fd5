"""``sendq demo``: run the whole system for half a minute."""

from __future__ import annotations

import click


@click.command()
def demo() -> None:
    """Run the whole system on this machine for half a minute, against a simulated API; it leaves nothing behind."""
    from worker.demo.run import run_demo

    raise SystemExit(run_demo())
