"""``sendq release``: end a hold, or reopen a closed lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_ledger
from worker.cli.output import FAILED, complain, json_option, tell, tell_json
from worker.cli.params import by_option, reason_option
from worker.cli.scopes import Scope, scope_of, scope_options, standing_json, standing_of, waiting

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sendq.clock import Micros
    from sendq.ledger.operators.holds import Released


@click.command()
@scope_options
@reason_option(required=True)
@by_option
@click.option("--dry-run", is_flag=True, help="Say what it would concern, and change nothing.")
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
    """End a hold now, whoever made it, or (--grant) reopen a lane that is closed for reauth. One call goes first.

    Exit status 1 if there is nothing to end.
    """
    from sendq import clock

    scope = scope_of(application, grant, provider, whole_application)
    now = clock.now()
    with open_ledger(writes=not dry_run) as connection:
        standing = standing_of(connection, scope, now=now)
        above = _above(connection, scope, now=now)
        if dry_run:
            done: Released | None = (
                "reopened" if standing.closed else "released" if standing.held_until is not None else None
            )
        else:
            done = _release(connection, scope, by=by, reason=reason, now=now)
    if as_json:
        said = {"done": None if dry_run else done, "dry_run": dry_run, "by": by, "reason": reason}
        tell_json(scope.as_json() | standing_json(standing) | said | {"held_above": [one.as_json() for one in above]})
    elif done is not None:
        tell(f"{scope}: {waiting(standing)}")
        tell(f"it would be {done}; nothing was changed" if dry_run else f"it is {done}: one call goes first")
        for one in above:
            tell(f"it waits all the same: {one} is held; see: sendq release {one.options} --reason …")
    if done is None:
        complain(f"{scope} is neither held nor closed{_instead(above)}")
        raise SystemExit(FAILED)


def _instead(above: list[Scope]) -> str:
    if not above:
        return "; what is, is shown by: sendq status"
    return f", but {above[0]} is held: sendq release {above[0].options} --reason …"


def _release(connection: Connection, scope: Scope, *, by: str, reason: str, now: Micros) -> Released | None:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.release_grant(connection, scope.application, scope.grant, by=by, reason=reason, now=now)
    return holds.release_pair(connection, scope.application, scope.pair, by=by, reason=reason, now=now)


def _above(connection: Connection, scope: Scope, *, now: Micros) -> list[Scope]:
    """What is held around a scope: it waits for that as well."""
    from sendq.ledger.operators import holds

    around = holds.held_above(connection, scope.application, grant_id=scope.grant, provider=scope.provider, now=now)
    return [Scope(scope.application, None, None if provider == "*" else provider) for provider in around]
