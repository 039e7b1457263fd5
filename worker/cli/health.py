"""``sendq health``: the end-to-end check, and two cheap probes for containers."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings
from worker.cli.output import FAILED, json_option, tell, tell_json

LIMIT_S = 30.0


@click.command()
@click.option(
    "--live", is_flag=True, help="Only check that the workers on this machine run and their event loops respond."
)
@click.option("--ready", is_flag=True, help="Only check that the workers on this machine can take work.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 600),
    default=LIMIT_S,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@json_option
def health(live: bool, ready: bool, timeout_s: float, as_json: bool) -> None:
    """Check end to end that new work is processed: an empty turn passes leader, broker, worker and ledger.

    --live and --ready are cheap probes of the workers on this machine (in this container); they succeed although the
    broker or the ledger is down. Exit status: 0 healthy, 1 not.
    """
    if live or ready:
        from worker.processes.heartbeat_file import main

        given = [name for name, is_given in (("--ready", ready), ("--json", as_json)) if is_given]
        raise SystemExit(main(given, os.environ))
    from worker.doctor.health import check_health

    seen = check_health(load_settings(), limit_s=timeout_s)
    if as_json:
        tell_json({"healthy": seen.healthy, "link": seen.link, "says": seen.says, "seconds": round(seen.seconds, 3)})
    else:
        tell(f"healthy: {seen.says}, in {seen.seconds:.2f} s" if seen.healthy else f"{seen.link}: {seen.says}")
    if not seen.healthy:
        raise SystemExit(FAILED)
