"""``sendq grants``: grants that are closed or held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import load_settings, read_ledger
from worker.cli.output import json_option, tell, tell_json, tell_table

if TYPE_CHECKING:
    from sendq.ledger.operators.holds import GrantLine


@click.command()
@click.option("--closed", is_flag=True, help="Only those whose owners must sign in again.")
@click.option("--held", is_flag=True, help="Only those that are left alone until a time.")
@click.option("--all", "everything", is_flag=True, help="The others as well.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
@json_option
def grants(closed: bool, held: bool, everything: bool, limit: int, as_json: bool) -> None:
    """Grants that are closed or held: since when, why, how much waits, and where the owner of each signs in again."""
    from sendq import clock
    from sendq.ledger.operators.holds import grant_lines
    from worker.notifying.reauth import reauth_url

    if closed + held + everything > 1:
        raise click.UsageError("give one of --closed, --held and --all")
    states = ["closed"] if closed else ["held"] if held else ["closed", "held"] + ["open"] * everything
    settings, now = load_settings(), clock.now()
    lines = read_ledger(lambda connection: grant_lines(connection, states=states, limit=limit, now=now))
    urls = [
        reauth_url(settings, line.application, line.grant_id) if line.state == "closed" and not line.gone else None
        for line in lines
    ]
    if as_json:
        tell_json([line.as_json() | {"reauth_url": url} for line, url in zip(lines, urls, strict=True)])
        return
    if not lines:
        tell("no grant is " + " or ".join(states))
        return
    columns = ("grant", "state", "since", "until", "waiting", "rule", "by", "reason", "sign in again at")
    tell_table(columns, [_cells(line, url) for line, url in zip(lines, urls, strict=True)], folds=True)


def _cells(line: GrantLine, url: str | None) -> tuple[object, ...]:
    from sendq.ledger.operators.holds import LINE_COUNT_MOST

    name = line.grant_id if line.application == "default" else f"{line.grant_id} of {line.application}"
    state = "gone" if line.gone else "closed, being checked" if line.suspected else line.state
    missing = "set NYLAS_CLIENT_ID or SENDQ_REAUTH_URL" if line.state == "closed" and not line.gone else ""
    return (
        name, state, line.since, line.until,
        f"{line.waiting:,}" + (" or more" if line.waiting >= LINE_COUNT_MOST else ""),
        line.rule, line.by, line.reason, url or missing,
    )  # fmt: skip
