"""Change something, or see whether it can be: cancel, migrate, check, settings."""

from __future__ import annotations

import click

from worker.cli.batching import batch_lines
from worker.cli.door import load_settings, open_queue
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, tell_table

CANCELLED = {
    "cancelled": "it will not go out",
    "sending": "it is on the wire; it is cancelled if the answer is that it did not go out",
    "in_doubt": "it may have gone out before; it is not tried again, and cancelled once it is shown not to be out",
}


@click.command()
@click.argument("job", required=False)
@click.option("--batch", metavar="ID", help="All jobs of this batch that have not gone out, and the rest of its walk.")
@json_option
def cancel(job: str | None, batch: str | None, as_json: bool) -> None:
    """Withdraw JOB, or a batch, and print how it is then. Exit status 1 if it had ended already, or is in doubt."""
    if (job is None) == (batch is None):
        raise click.UsageError("name either JOB or --batch ID")
    if batch is not None:
        _cancel_batch(batch, as_json)
        return
    assert job is not None
    with open_queue() as queue:
        state = queue.cancel(job)
    if as_json:
        tell_json({"job_id": job, "state": state.value})
    else:
        tell(f"{job} is {state}: {CANCELLED.get(state, 'it had ended before')}")
    if state not in ("cancelled", "sending"):
        raise SystemExit(FAILED)


def _cancel_batch(batch: str, as_json: bool) -> None:
    with open_queue() as queue:
        queue.cancel_batch(batch)
        seen = queue.batch(batch)
    if as_json:
        tell_json(seen.as_json())
    else:
        for line in batch_lines(seen):
            tell(line)
    if seen.cancelled_at is None:
        complain("it had ended before")
        raise SystemExit(FAILED)


@click.command()
@click.option("--sql", is_flag=True, help="Print the statements instead; no server is asked.")
@json_option
def migrate(sql: bool, as_json: bool) -> None:
    """Bring the ledger's tables up to date. Safe to run again, and by several at once."""
    from sendq.__main__ import main as package_main

    if sql and as_json:
        raise click.UsageError("--sql prints SQL: leave --json away")
    settings = load_settings()
    if settings.database_url is None and not sql:
        settings.home.mkdir(parents=True, exist_ok=True)
    form = ["--sql"] if sql else ["--json"] if as_json else []
    raise SystemExit(package_main(["migrate", "--url", settings.ledger_url.get_secret_value(), *form]))


@click.command()
@json_option
def check(as_json: bool) -> None:
    """Try everything a worker needs: settings, API keys, ledger, broker. Exit status 2 if something must be mended."""
    import dataclasses

    from worker import check as checks

    items = checks.check()
    if as_json:
        tell_json([dataclasses.asdict(item) for item in items])
    else:
        for line in checks.lines(items):
            tell(line)
    raise SystemExit(checks.exit_code(items))


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """Every setting: the variables that it is read from, its default, its meaning."""
    from settings import Settings

    rows = Settings.describe()
    if as_json:
        tell_json([row._asdict() for row in rows])
        return
    tell_table(
        ("variable", "default", "meaning"),
        [("\n".join(row.env), f"{row.default} {row.unit}".strip() if row.default else "", row.meaning) for row in rows],
        folds=True,
    )


COMMANDS = (cancel, migrate, check, settings)
