"""Is it well: the canary, and the two cheap probes for containers."""

from __future__ import annotations

import os

import click

from worker.cli.connection import load_settings
from worker.cli.output import FAILED, json_option, tell, tell_json

LIMIT_S = 30.0


@click.command()
@click.option("--live", is_flag=True, help="Only: do the workers here live, and do their event loops turn?")
@click.option("--ready", is_flag=True, help="Only: can the workers here take on work?")
@click.option(
    "--limit", type=click.FloatRange(1, 600), default=LIMIT_S, show_default=True, help="Seconds to wait at most."
)
@json_option
def health(live: bool, ready: bool, limit: float, as_json: bool) -> None:
    """Whether work that comes in is taken up: a turn without a job goes through leader, broker, worker and ledger.

    With --live or --ready it asks the workers of this machine (this container) alone, cheaply, and does not mind that
    the broker or the ledger is away. Exit status: 0 healthy, 1 not.
    """
    if live or ready:
        from worker.processes.heartbeat_file import main

        given = [name for name, is_given in (("--ready", ready), ("--json", as_json)) if is_given]
        raise SystemExit(main(given, os.environ))
    from worker.doctor.health import check_health

    seen = check_health(load_settings(), limit_s=limit)
    if as_json:
        tell_json({"healthy": seen.healthy, "link": seen.link, "says": seen.says, "seconds": round(seen.seconds, 3)})
    else:
        tell(f"healthy: {seen.says}, in {seen.seconds:.2f} s" if seen.healthy else f"{seen.link}: {seen.says}")
    if not seen.healthy:
        raise SystemExit(FAILED)
