"""``sendq api``: the HTTP API, for applications that are not in Python."""

from __future__ import annotations

import click

from worker.cli.connection import load_settings, open_queue, require_ledger
from worker.cli.output import tell
from worker.cli.params import API_PORT


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=API_PORT,
    show_default=True,
    help="The port to listen on; 0 picks a free one.",
)
def api(host: str, port: int) -> None:
    """Serve the HTTP API: send, modify, look up and cancel jobs, for applications that are not in Python.

    Every request needs a token of the file that SENDQ_API_TOKENS_FILE names (`sendq token create`). Put HTTPS in front
    of it: tokens and messages are sent as they are.
    """
    from settings.logs import start_logs
    from worker.processes.api import serve, tokens_of

    settings = load_settings()
    tokens = tokens_of(settings)
    require_ledger()
    start_logs(settings)
    with open_queue() as queue:
        serve(settings, queue, tokens, host=host, port=port, say=tell)
