"""``sendq hold``: pause a grant, a provider, a tag, an application, or every grant that matches, until a given time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from worker.cli.changing import carry_out
from worker.cli.connection import open_operators
from worker.cli.filters import interruptible, refuse_unknown_rule
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json, when
from worker.cli.params import by_option, dry_run_option, duration, reason_option, since_option, time
from worker.cli.scopes import (
    each_grant_options,
    filter_of,
    job_options,
    jobs_named,
    options_of,
    scope_json,
    scope_of,
    scope_options,
    state_json,
    waiting_text,
)

if TYPE_CHECKING:
    from sendq.filters import GrantFilter
    from sendq.operators import HoldResult

# Long enough to look into it, short enough that a forgotten hold ends within a day.
DEFAULT_HOLD = timedelta(hours=24)


@click.command()
@scope_options
@job_options
@each_grant_options("held", since_option("Grants held or closed since"))
@click.option("--for", "lasting", type=duration, metavar="DURATION", help="How long, like 30m or 2h (default: 24h).")
@click.option("--until", type=time, metavar="TIME", help="Until when, like 2026-07-01T09:00:00Z.")
@reason_option(required=True)
@by_option
@dry_run_option("Show what would be held, and change nothing.")
@json_option
def hold(
    application: str | None,
    grant: str | None,
    provider: str | None,
    tag: str | None,
    whole_application: bool,
    job: str | None,
    key: str | None,
    batch: str | None,
    each_grant: bool,
    rule: str | None,
    state: tuple[str, ...],
    since: datetime | None,
    lasting: timedelta | None,
    until: datetime | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pause a grant, provider, application or tag until a given time. Jobs wait; no attempts are used up.

    With --rule, --state or --each-grant: each grant that matches all filters.

    With --job, --key or --batch: only these jobs, until they are released, as long as they do not expire. Other mail of
    their grants goes on.

    Calls in flight are finished. A hold never shortens an existing one: exit status 1 if it is already held for longer.
    """
    others = {
        "application": application, "grant": grant, "provider": provider, "whole": whole_application, "tag": tag,
        "each": each_grant, "rule": rule, "state": state, "since": since, "for": lasting,
        "until": until,
    }  # fmt: skip
    if (named := jobs_named(job, key, batch, others)) is not None:
        with open_operators() as operators:
            run = operators.hold_job(**named, by=by, reason=reason, dry_run=dry_run)
            carry_out(run, "held until released", "already held", facts={"by": by, "reason": reason}, as_json=as_json)
        return
    if lasting is not None and until is not None:
        raise click.UsageError("give --for or --until, not both")
    end = until or datetime.now(UTC) + (lasting or DEFAULT_HOLD)
    which = filter_of(application, grant, provider, whole_application, each_grant, rule, state, since, tag=tag)
    if which is not None:
        _hold_each(which, end, by=by, reason=reason, dry_run=dry_run, as_json=as_json)
        return
    scope = scope_of(application, grant, provider, whole_application, tag)
    with open_operators() as operators:
        result = operators.hold(scope, until=end, by=by, reason=reason, dry_run=dry_run)
    if as_json:
        done = {"done": result.done, "dry_run": dry_run, "until": result.until.isoformat()}
        tell_json(scope_json(scope) | state_json(result.before) | done | {"by": by, "reason": reason})
    else:
        _tell(result)
    if not result.allowed:
        _complain_of_longer(result)
        raise SystemExit(FAILED)


def _complain_of_longer(result: HoldResult) -> None:
    scope, before = result.scope, result.before
    assert before.held_until is not None
    complain(
        f"{scope} is already held until {when(before.held_until)} ({before.held_rule}, by {before.held_by}); "
        f"to end that hold first: sendq release {options_of(scope)} --reason …"
    )


def _hold_each(which: GrantFilter, end: datetime, *, by: str, reason: str, dry_run: bool, as_json: bool) -> None:
    with open_operators() as operators, progress_line() as show:
        run = operators.hold_grants(which, until=end, by=by, reason=reason, dry_run=dry_run)
        result = interruptible(run, show, lambda part: f"{counted(part.held, 'grant')}{' would be' * dry_run} held")
    if as_json:
        done = {"dry_run": dry_run, "held": result.held, "longer": result.longer, "until": result.until.isoformat()}
        tell_json(done | {"by": by, "reason": reason})
    elif result.held or result.longer:
        would = "would be held" if dry_run else "held"
        tell(f"{counted(result.held, 'grant')} {would} until {when(result.until)}" + dry_run * "; nothing was changed")
        if result.longer:
            tell(f"{result.longer:,} already held for longer")
    if not (result.held or result.longer):
        refuse_unknown_rule(which.rule)
        complain("no grant matches; see: sendq grants")
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
