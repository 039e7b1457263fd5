"""``sendq webhooks``: receive webhooks about grants."""

from __future__ import annotations

import click

from worker.cli.connection import load_settings, open_queue, require_ledger
from worker.cli.output import tell


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8787,
    show_default=True,
    help="The port to listen on; 0 picks a free one.",
)
def webhooks(host: str, port: int) -> None:
    """Receive Nylas's webhooks about grants and mail, for every application that has a webhook secret.

    The application `default` is served at /, any other at /NAME. Nylas requires HTTPS: put a proxy in front that passes
    on the body unchanged (its bytes are signed) and the header x-nylas-signature.
    """
    from settings.logs import start_logs
    from worker.processes.webhooks import secrets_of, serve

    settings = load_settings()
    secrets = secrets_of(settings)
    require_ledger()
    start_logs(settings)
    with open_queue() as queue:
        serve(queue, secrets, host=host, port=port, say=tell, outcomes=settings.outcomes_of_mail)
