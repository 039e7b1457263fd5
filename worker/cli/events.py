"""``sendq events``: what happened to grants and holds, and what operators did."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import read_ledger
from worker.cli.filters import check_grant_id
from worker.cli.output import json_option, tell, tell_json, tell_table, when
from worker.cli.params import since_option

if TYPE_CHECKING:
    pass


@click.command()
@click.option("--grant", metavar="ID", help="Only what concerned this grant.")
@since_option("Only what happened since")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
def events(grant: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """What happened to grants and holds, and what operators did: the latest first, with author and time."""
    from sendq.clock import micros, moment
    from sendq.ledger.events import latest

    if grant is not None:
        check_grant_id(grant)
    at = None if since is None else micros(since)
    rows = read_ledger(lambda connection: latest(connection, limit=limit, grant_id=grant, since=at))
    if as_json:
        names = ("kind", "application", "provider", "grant_id", "rule", "by", "reason")
        tell_json(
            [
                {"at": moment(row.at).isoformat(), **{name: row._mapping[name] for name in names}}
                | {name: str(row._mapping[name]) if row._mapping[name] else None for name in ("job_id", "batch_id")}
                for row in rows
            ]
        )
        return
    if not rows:
        tell(f"nothing has happened to {'this grant' if grant else 'grants and holds'} {'since' if since else 'yet'}")
        return
    tell_table(
        ("at", "event", "concerns", "rule", "by", "reason"),
        [(when(moment(row.at)), row.kind, _concerns(row), row.rule, row.by, row.reason) for row in rows],
        folds=True,
    )


def _concerns(row: Any) -> str:
    """Whom, and (of what a person did) which job or batch; or the job whose answer it was."""
    from sendq.scope import Scope

    scope = "" if row.application is None else str(Scope(row.application, row.grant_id, row.provider))
    job = f"job {row.job_id}" if row.job_id else f"batch {row.batch_id}" if row.batch_id else ""
    return ": ".join(part for part in (scope, job) if part)
