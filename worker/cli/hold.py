"""``sendq hold``: pause a grant, a provider or an application until a given time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_operators
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, when
from worker.cli.params import by_option, dry_run_option, duration, reason_option, time
from worker.cli.scopes import options_of, scope_json, scope_of, scope_options, state_json, waiting_text

if TYPE_CHECKING:
    from sendq.operators import HoldResult

# Long enough to look into it, short enough that a forgotten hold ends within a day.
DEFAULT_HOLD = timedelta(hours=24)


@click.command()
@scope_options
@click.option("--for", "lasting", type=duration, metavar="DURATION", help="How long, like 30m or 2h (default: 24h).")
@click.option("--until", type=time, metavar="TIME", help="Until when, like 2026-07-01T09:00:00Z.")
@reason_option(required=True)
@by_option
@dry_run_option("Show what would be held, and change nothing.")
@json_option
def hold(
    application: str,
    grant: str | None,
    provider: str | None,
    whole_application: bool,
    lasting: timedelta | None,
    until: datetime | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pause a grant, provider or application until a given time. Jobs wait; no attempts are used up.

    Calls in flight are finished. A hold never shortens an existing one: exit status 1 if it is already held for longer.
    """
    if lasting is not None and until is not None:
        raise click.UsageError("give --for or --until, not both")
    scope = scope_of(application, grant, provider, whole_application)
    end = until or datetime.now(UTC) + (lasting or DEFAULT_HOLD)
    with open_operators() as operators:
        result = operators.hold(scope, until=end, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        done = {"done": result.done, "dry_run": dry_run, "until": result.until.isoformat()}
        tell_json(scope_json(scope) | state_json(result.before) | done | {"by": by, "reason": reason})
    else:
        _tell(result)
    if not result.allowed:
        before = result.before
        assert before.held_until is not None
        complain(
            f"{scope} is already held until {when(before.held_until)} ({before.held_rule}, by {before.held_by}); "
            f"to end that hold first: sendq release {options_of(scope)} --reason …"
        )
        raise SystemExit(FAILED)


def _tell(result: HoldResult) -> None:
    if not result.allowed:
        return
    is_held = "would be held" if result.dry_run else "is held"
    new = "" if result.before.known or result.before.waiting else "; it has had no jobs so far"
    tell(f"{result.scope} {is_held} until {when(result.until)}; {waiting_text(result.before)}{new}")
    if result.dry_run:
        tell("nothing was changed")
    else:
        tell(f"to end the hold earlier: sendq release {options_of(result.scope)} --reason …")
