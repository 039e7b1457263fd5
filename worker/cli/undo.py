"""``sendq undo``: restore what the messages of a batch of modifications were before."""

from __future__ import annotations

from dataclasses import asdict

import click

from worker.cli.connection import load_settings, open_operators
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option
from worker.cli.wording import on_command_line


@click.command()
@click.option("--batch", required=True, metavar="ID", help="A batch of modifications that was made with undoable=True.")
@click.option("--key", metavar="KEY", help="The undo's key: a repeated command with it changes nothing.")
@reason_option(required=False)
@by_option
@dry_run_option("Show how many messages it would restore, and change nothing.")
@json_option
def undo(batch: str, key: str | None, reason: str | None, by: str, dry_run: bool, as_json: bool) -> None:
    """Undo a batch of modifications: restore its messages to what they were before.

    Messages that were changed since, or are gone, are left alone; sendq batch shows which. The undo is a batch too:
    you can watch and cancel it, but not undo it.
    """
    from sendq import KeyConflict

    try:
        with open_operators() as operators:
            result = operators.undo(
                batch, undo_key=key, vault=load_settings().vault, by=by, reason=reason, dry_run=dry_run
            )
    except KeyConflict as conflict:
        complain(f"{on_command_line(str(conflict))}; nothing was changed")
        raise SystemExit(FAILED) from None
    if as_json:
        tell_json(asdict(result))
        return
    messages = counted(result.total, "message")
    if result.existed:
        tell(f"batch {result.undo_id} is undoing it already, or has undone it: {messages}")
    elif result.dry_run:
        tell(f"{messages} would be restored, except those that were changed since; nothing was changed")
    else:
        tell(f"batch {result.undo_id}: restores {messages}, except those that were changed since")
    if result.left_out:
        gone = counted(result.left_out, "message")
        tell(f"not restored: {gone} changed by the batch, whose earlier state is no longer kept")
    if result.undo_id is None:
        return
    tell(f"to watch it: sendq batch {result.undo_id} --watch; to cancel it: sendq cancel --batch {result.undo_id}")
