"""``sendq simulator``: a stand-in for the Nylas v3 API."""

from __future__ import annotations

import click

from worker.cli.passed_on import PASSED_ON


@click.command(context_settings={**PASSED_ON, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulator(arguments: tuple[str, ...]) -> None:
    """A stand-in for the Nylas v3 API on a real socket; it sends nothing."""
    from sendq.simulator.__main__ import main as simulate

    raise SystemExit(simulate(list(arguments), prog="sendq simulator"))
