"""Is it well: the canary, and the two cheap probes for containers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from worker.cli.output import FAILED, json_option, tell, tell_json

if TYPE_CHECKING:
    from settings import Settings
    from worker.doctor.health import Health

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
    seen = _prove(limit)
    if as_json:
        tell_json({"healthy": seen.healthy, "link": seen.link, "says": seen.says, "seconds": round(seen.seconds, 3)})
    else:
        tell(f"healthy: {seen.says}, in {seen.seconds:.2f} s" if seen.healthy else f"{seen.link}: {seen.says}")
    if not seen.healthy:
        raise SystemExit(FAILED)


def _prove(limit_s: float) -> Health:
    from sendq.ledger.db.engine import open_engine
    from worker.cli.connection import ledger_address, load_settings
    from worker.doctor.health import prove

    settings = load_settings()
    engine = open_engine(ledger_address(settings))
    try:
        return prove(engine, limit_s=limit_s, broker_answers=lambda: _answers(settings))
    finally:
        engine.dispose()


def _answers(settings: Settings) -> bool:
    from redis import RedisError

    from worker.redis.embedded import redis_client

    try:
        with redis_client(settings.broker_url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False
