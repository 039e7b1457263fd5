"""``sendq console``: pages on which people see what waits and why, and act."""

from __future__ import annotations

import click

from worker.cli.connection import load_settings, open_operators, open_queue, require_ledger
from worker.cli.output import tell
from worker.cli.params import CONSOLE_PORT
from worker.cli.rule_texts import words_of_rules


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=CONSOLE_PORT,
    show_default=True,
    help="The port to listen on; 0 picks a free one.",
)
def console(host: str, port: int) -> None:
    """Serve the console: what waits and why, in a browser, and what operators can do about it.

    Without a login it can be read on this machine alone, and acts are not possible. A login is a file of passwords
    (SENDQ_CONSOLE_PASSWORDS_FILE; `sendq password` writes its lines) or a proxy that names the person
    (SENDQ_CONSOLE_PROXY_HEADER). Put HTTPS in front of it: browsers send the session over HTTPS alone.
    """
    from settings.logs import start_logs
    from worker.processes.console import serve

    settings = load_settings()
    require_ledger()
    start_logs(settings)
    with open_operators() as operators, open_queue() as queue:
        serve(settings, operators, queue, dict(words_of_rules()), host=host, port=port, say=tell)
