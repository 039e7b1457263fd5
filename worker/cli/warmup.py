"""``sendq warmup``: a limit of messages a day that grows, for a new account."""

from __future__ import annotations

import click

from worker.cli.connection import open_operators
from worker.cli.output import json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option


@click.command(name="warmup")
@click.option("--grant", required=True, metavar="ID", help="The account.")
@click.option("--application", default="default", show_default=True, metavar="NAME", help="The grant's application.")
@click.option("--first", type=int, default=20, show_default=True, metavar="N", help="Messages on the first day.")
@click.option("--growth", type=float, default=1.2, show_default=True, help="Factor by which the limit grows each day.")
@click.option("--most", type=int, default=700, show_default=True, metavar="N",
              help="The warm-up ends once the limit reaches this.")  # fmt: skip
@click.option("--end", is_flag=True, help="End the warm-up now: its limit no longer applies.")
@reason_option(required=True)
@by_option
@dry_run_option("Show the warm-up that it has, and change nothing.")
@json_option
def warmup(
    grant: str,
    application: str,
    first: int,
    growth: float,
    most: int,
    end: bool,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Warm up a new account: give it a limit of messages within 24 hours that grows every day.

    Mail above the limit waits. sendq grants --grant ID shows the limit.
    """
    from dataclasses import asdict

    from sendq import WarmUp

    wanted = None if end else WarmUp(first, growth, most)
    with open_operators() as operators:
        result = operators.set_warm_up(grant, wanted, application=application, by=by, reason=reason, dry_run=dry_run)
    before = result.before
    if as_json:
        both = {
            "before": None if before is None else asdict(before),
            "warm_up": None if wanted is None else asdict(wanted),
        }
        tell_json({"grant_id": grant, "application": application, "dry_run": dry_run} | both)
        return
    would = "would be" if dry_run else "is"
    says = f"{would} warmed up: {wanted}" if wanted is not None else f"{would} not warmed up any more"
    tell(f"grant {grant} {says}; before: {before or 'no warm-up'}")
    if dry_run:
        tell("nothing was changed")
