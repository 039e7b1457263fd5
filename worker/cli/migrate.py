"""``sendq migrate``: bring the ledger's tables up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import load_settings
from worker.cli.output import json_option

if TYPE_CHECKING:
    pass


@click.command()
@click.option("--sql", is_flag=True, help="Print the SQL statements instead; connects to no server.")
@json_option
def migrate(sql: bool, as_json: bool) -> None:
    """Create the ledger's tables, or bring them up to date. Safe to run again, and concurrently."""
    from sendq.__main__ import main as package_main

    if sql and as_json:
        raise click.UsageError("--sql prints SQL; leave out --json")
    settings = load_settings()
    if settings.database_url is None and not sql:
        settings.make_home()
    form = ["--sql"] if sql else ["--json"] if as_json else []
    raise SystemExit(package_main(["migrate", "--url", settings.ledger_url.get_secret_value(), *form]))
