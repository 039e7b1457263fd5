"""``sendq undo``: restore what the messages of a batch of modifications were before."""

from __future__ import annotations

from dataclasses import asdict

import click

from worker.cli.connection import load_settings, open_operators
from worker.cli.filters import batch_option, key_option
from worker.cli.output import FAILED, complain, counted, json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, one_of, reason_option
from worker.cli.wording import on_command_line


@click.command()
@batch_option("A batch of modifications that was made with undoable=True.")
@key_option("The batch")
@click.option("--application", metavar="NAME", default="default", help="With --key: its application.")
@click.option("--undo-key", metavar="KEY", help="The undo's own key: a repeated command with it changes nothing.")
@reason_option(required=False)
@by_option
@dry_run_option("Show how many messages it would restore, and change nothing.")
@json_option
def undo(
    batch: str | None,
    key: str | None,
    application: str,
    undo_key: str | None,
    reason: str | None,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Undo a batch of modifications: restore its messages to what they were before.

    Messages that were changed since, or are gone, are left alone; sendq batch shows which. The undo is a batch too:
    you can watch and cancel it, but not undo it.

    Exit status 1 if the batch cannot be undone, or not yet, or if --undo-key was used for something else; 2 if the
    command cannot be used as it is.
    """
    from sendq import InvalidArgument, KeyConflict

    one_of(batch, key, "--batch")
    found = batch
    try:
        with open_operators() as operators:
            found = batch or operators.batch(key=key, application=application).id
            result = operators.undo(
                found, undo_key=undo_key, vault=load_settings().vault, by=by, reason=reason, dry_run=dry_run
            )
    except KeyConflict as conflict:
        complain(f"{on_command_line(str(conflict))}; nothing was changed")
        raise SystemExit(FAILED) from None
    except InvalidArgument as refused:
        (first, *_) = refused.problems
        if first.field != "batch_id":
            raise
        complain(on_command_line(f"batch {found} {first.reason}; {first.remedy}"))
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
