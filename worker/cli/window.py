"""``sendq window``: set or remove the window of a grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.filters import interruptible
from worker.cli.output import counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option
from worker.cli.params import window as window_type

if TYPE_CHECKING:
    from sendq import Window


@click.command()
@click.option("--grant", required=True, metavar="ID", help="The account.")
@click.option("--application", default="default", show_default=True, metavar="NAME", help="The grant's application.")
@click.option(
    "--set",
    "window",
    type=window_type,
    metavar="WINDOW",
    help="The window, like '09:00-17:30 mon-fri Europe/Berlin'; holidays may follow: 2026-12-25,2026-12-26",
)
@click.option("--remove", is_flag=True, help="Remove the window: jobs may begin at any time.")
@reason_option(required=True)
@by_option
@dry_run_option("Show the window that it has, and change nothing.")
@json_option
def window(
    grant: str,
    application: str,
    window: Window | None,
    remove: bool,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set or remove a grant's window: the hours in which its jobs may begin, unless they have their own.

    It applies at once, to waiting jobs and to new ones. sendq grants --grant ID shows it.
    """
    if (window is None) != remove:
        raise click.UsageError("give either --set or --remove")
    with open_operators() as operators, progress_line() as show:
        run = operators.set_window(grant, window, application=application, by=by, reason=reason, dry_run=dry_run)
        result = interruptible(run, show, lambda part: f"{counted(part.number, 'job')} moved")
    if as_json:
        facts = {"grant_id": grant, "application": application, "before": result.before, "window": result.window}
        tell_json(facts | {"changed": result.changed, "number": result.number, "dry_run": dry_run})
        return
    has = "would have" if dry_run else "has"
    now = f"the window {result.window}" if result.window else "no window"
    tell(f"grant {grant} {has} {now}" + (f"; before: {result.before or 'none'}" if result.changed else ", as before"))
    if result.number:
        tell(f"the start of {counted(result.number, 'waiting job')} has changed")
    if dry_run:
        tell("nothing was changed")
