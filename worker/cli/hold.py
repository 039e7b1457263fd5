"""``sendq hold``: leave a grant, a provider or an application alone until a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from worker.cli.connection import open_ledger
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, when
from worker.cli.params import LONGEST, by_option, duration, reason_option, time
from worker.cli.scopes import Scope, scope_of, scope_options, standing_json, standing_of, waiting

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sendq.clock import Micros
    from sendq.scope import ScopeState


# Long enough to look into it, short enough that a forgotten hold ends within a day.
DEFAULT_HOLD = timedelta(hours=24)


@click.command()
@scope_options
@click.option("--for", "lasting", type=duration, help="How long, like 30m or 2h (default: 24h).")
@click.option("--until", type=time, help="Until when, like 2026-07-01T09:00:00Z.")
@reason_option(required=True)
@by_option
@click.option("--dry-run", is_flag=True, help="Say what it would concern, and change nothing.")
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
    """Leave a grant, a provider or a whole application alone until a time. Its jobs wait, and lose nothing by it.

    What is on the wire is finished. Exit status 1 if it is held for longer already: a hold shortens none.
    """
    from sendq import clock

    scope = scope_of(application, grant, provider, whole_application)
    now = clock.now()
    end = _end(lasting, until, clock.moment(now))

    def act(connection: Connection) -> tuple[ScopeState, bool]:
        standing = standing_of(connection, scope, now=now)
        if dry_run:
            return standing, standing.held_until is None or standing.held_until <= end
        return standing, _hold(connection, scope, until=clock.micros(end), by=by, reason=reason, now=now)

    with open_ledger(writes=not dry_run) as connection:
        standing, possible = act(connection)
    if as_json:
        done = {"done": possible and not dry_run, "dry_run": dry_run, "until": end.isoformat()}
        tell_json(scope.as_json() | standing_json(standing) | done | {"by": by, "reason": reason})
    else:
        tell(f"{scope}: {waiting(standing)}" + ("" if standing.known else "; it has had none so far"))
        if possible and dry_run:
            tell(f"it would be held until {when(end)}; nothing was changed")
        elif possible:
            tell(f"it is held until {when(end)}; to end that earlier: sendq release {scope.options} --reason …")
    if not possible:
        assert standing.held_until is not None
        complain(
            f"{scope} is held until {when(standing.held_until)} already ({standing.held_rule}, by {standing.held_by}); "
            f"to end that first: sendq release {scope.options} --reason …"
        )
        raise SystemExit(FAILED)


def _end(lasting: timedelta | None, until: datetime | None, now: datetime) -> datetime:
    if lasting is not None and until is not None:
        raise click.UsageError("give --for or --until, not both")
    if until is None:
        return now + (lasting or DEFAULT_HOLD)
    if not now < until <= now + LONGEST:
        raise click.UsageError(f"--until is not within the next {LONGEST.days} days")
    return until


def _hold(connection: Connection, scope: Scope, *, until: Micros, by: str, reason: str, now: Micros) -> bool:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.hold_grant(connection, scope.application, scope.grant, until=until, by=by, reason=reason, now=now)
    return holds.hold_pair(connection, scope.application, scope.pair, until=until, by=by, reason=reason, now=now)
