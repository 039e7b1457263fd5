"""``sendq release``: end a hold, or reopen a closed lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, dry_run_option, reason_option
from worker.cli.scopes import options_of, scope_json, scope_of, scope_options, state_json, waiting_text

if TYPE_CHECKING:
    from sendq.operators import ReleaseResult


@click.command()
@scope_options
@reason_option(required=True)
@by_option
@dry_run_option("Show what would be released, and change nothing.")
@json_option
def release(
    application: str,
    grant: str | None,
    provider: str | None,
    whole_application: bool,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """End a hold, set by a rule or by an operator, or reopen a grant that is closed until its owner signs in.

    Sending resumes with a single call and speeds up as calls succeed. Exit status 1 if there is nothing to end.
    """
    scope = scope_of(application, grant, provider, whole_application)
    with open_operators() as operators:
        result = operators.release(scope, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        said = {"done": result.outcome if result.done else None, "dry_run": dry_run, "by": by, "reason": reason}
        above = {"held_above": [scope_json(one) for one in result.held_above]}
        tell_json(scope_json(scope) | state_json(result.before) | said | above)
    else:
        _tell(result)
    if result.outcome is None:
        complain(f"{scope} is neither held nor closed{_instead(result)}")
        raise SystemExit(FAILED)


def _tell(result: ReleaseResult) -> None:
    if result.outcome is None:
        return
    jobs = waiting_text(result.before)
    if result.dry_run:
        tell(f"{result.scope} would be {result.outcome}; {jobs}; nothing was changed")
    else:
        tell(f"{result.scope} is {result.outcome}; {jobs}; sending resumes with a single call")
    for one in result.held_above:
        tell(f"its jobs still wait: {one} is held; see: sendq release {options_of(one)} --reason …")


def _instead(result: ReleaseResult) -> str:
    if not result.held_above:
        return "; see: sendq status"
    above = result.held_above[0]
    return f", but {above} is held: sendq release {options_of(above)} --reason …"
