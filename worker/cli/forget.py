"""``sendq forget``: erase a grant's mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option

if TYPE_CHECKING:
    from sendq.operators import ForgetProgress


@click.command()
@click.option("--grant", metavar="ID", required=True, help="The grant's id (not an address).")
@click.option("--application", default="default", show_default=True, help="The application that the grant belongs to.")
@reason_option(required=True)
@by_option
@dry_run_option("Count what would be erased, and change nothing.")
@json_option
def forget(grant: str, application: str, reason: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Erase what the ledger stores of a grant's mail (bodies, addresses, error texts), and cancel its waiting jobs.

    A record of the jobs is kept: ids, times, states, and keys as the application wrote them. Exit status 1 if the
    ledger has no job of this grant, or if some are left (in flight or in doubt): run it again when they have ended.
    """
    with open_operators() as operators, progress_line() as show:
        run = operators.forget(grant, application, by=by, reason=reason, dry_run=dry_run)
        for part in run:
            show(f"{part.erased:,} of {part.jobs:,} jobs{' would be' * dry_run} erased")
        result = run.finish()
    if as_json:
        tell_json(
            {"application": application, "grant_id": grant, "dry_run": dry_run, "cancelled": result.cancelled}
            | {"erased": result.erased, "keys": result.keys, "batches": result.batches - result.batches_left}
            | {"left": {"in_flight": result.in_flight, "in_doubt": result.in_doubt, "batches": result.batches_left}}
            | {"by": by, "reason": reason}
        )
    else:
        _tell(result)
    if not result.jobs:
        complain("the ledger has no job of this grant; check the id, and --application")
        raise SystemExit(FAILED)
    if result.left:
        raise SystemExit(FAILED)


def _tell(result: ForgetProgress) -> None:
    would = "would be " if result.dry_run else ""
    tell(f"{counted(result.cancelled, 'waiting job')} {would}cancelled; {counted(result.erased, 'job')} {would}erased")
    if result.keys:
        tell(f"{counted(result.keys, 'key')} kept, so that a repeat sends no second mail")
    if result.in_flight:
        tell(f"left: {result.in_flight:,} in flight; run this again in a few minutes")
    if result.in_doubt:
        tell(f"left: {result.in_doubt:,} in doubt, which may have been sent; resolve them, then run this again")
