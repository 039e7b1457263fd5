"""``sendq release``: end a hold, or reopen a closed lane; of one scope, or of every grant that matches."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from worker.cli.changing import carry_out
from worker.cli.connection import open_operators
from worker.cli.filters import interruptible, period_options, refuse_unknown_rule
from worker.cli.output import FAILED, complain, counted, json_option, progress_line, tell, tell_json
from worker.cli.params import by_option, dry_run_option, rate_option, reason_option
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
    from sendq.operators import ReleaseProgress, ReleaseResult


@click.command()
@scope_options
@job_options
@each_grant_options("released", period_options("Grants held or closed"))
@rate_option
@reason_option(required=True)
@by_option
@dry_run_option("Show what would be released, and change nothing.")
@json_option
def release(
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
    until: datetime | None,
    apart_s: float | None,
    reason: str,
    by: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """End a hold now, no matter what set it, or reopen a grant that is closed until its owner signs in again.

    With --rule, --state or --each-grant: of every grant that matches all filters, those held for the longest
    time first. With --rule, also the holds of providers and applications by that rule. Without --rule
    or --state, grants that are closed are left out.

    With --job, --key or --batch: the hold of these jobs, which then begin when they are due.

    Sending resumes with a single call and speeds up as calls succeed. Exit status 1 if there is nothing to end.
    """
    others = {
        "application": application, "grant": grant, "provider": provider, "whole": whole_application, "tag": tag,
        "each": each_grant, "rule": rule, "state": state, "since": since, "until": until,
        "rate": apart_s,
    }  # fmt: skip
    if (named := jobs_named(job, key, batch, others)) is not None:
        with open_operators() as operators:
            run = operators.release_job(**named, by=by, reason=reason, dry_run=dry_run)
            carry_out(run, "released", "not held", facts={"by": by, "reason": reason}, as_json=as_json)
        return
    which = filter_of(application, grant, provider, whole_application, each_grant, rule, state, since, until, tag)
    if which is not None:
        _release_each(which, apart_s or 0.0, by=by, reason=reason, dry_run=dry_run, as_json=as_json)
        return
    if apart_s is not None:
        raise click.UsageError("--rate goes with several grants: add --rule, --state or --each-grant")
    scope = scope_of(application, grant, provider, whole_application, tag)
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


def _release_each(which: GrantFilter, apart_s: float, *, by: str, reason: str, dry_run: bool, as_json: bool) -> None:
    with open_operators() as operators, progress_line() as show:
        run = operators.release_grants(which, by=by, reason=reason, apart_s=apart_s, dry_run=dry_run)
        result = interruptible(run, show, _progress)
    if as_json:
        tell_json(
            {"dry_run": dry_run, "released": result.released, "reopened": result.reopened, "by": by, "reason": reason}
            | {"wide": [scope_json(one) for one in result.wide], "waiting": result.waiting}
        )
    elif result.released or result.reopened or result.wide:
        _tell_each(result, apart_s)
    if not (result.released or result.reopened or result.wide):
        refuse_unknown_rule(which.rule)
        complain("no grant that is held or closed matches; see: sendq grants")
        raise SystemExit(FAILED)


def _progress(part: ReleaseProgress) -> str:
    return f"{part.released + part.reopened:,} of {counted(part.found, 'grant')}{' would be' * part.dry_run} released"


def _tell_each(result: ReleaseProgress, apart_s: float) -> None:
    grants = result.released + result.reopened
    what = [counted(grants, "grant") + (f" ({result.reopened:,} of them closed)" if result.reopened else "")]
    what += [str(scope) for scope in result.wide]
    if not grants and result.wide:
        what = what[1:]
    names = " and ".join(what)
    if result.dry_run:
        more = " or more" if result.more_waiting else ""
        jobs = "1 job waits" if result.waiting == 1 else f"{result.waiting or 0:,}{more} jobs wait"
        tell(f"{names} would be released; {jobs}; nothing was changed")
        return
    tell(f"{names} released; sending resumes with a single call of each")
    if apart_s and grants > 1:
        tell(f"one every {apart_s:g} s, the last one in {apart_s * (grants - 1):,.0f} s; each is held until its time")


def _tell(result: ReleaseResult) -> None:
    if result.outcome is None:
        return
    jobs = waiting_text(result.before)
    if result.dry_run:
        tell(f"{result.scope} would be {result.outcome}; {jobs}; nothing was changed")
    else:
        resumes = "its jobs start again within seconds" if result.scope.tag else "sending resumes with a single call"
        tell(f"{result.scope} is {result.outcome}; {jobs}; {resumes}")
    for one in result.held_above:
        tell(f"its jobs still wait: {one} is held; see: sendq release {options_of(one)} --reason …")


def _instead(result: ReleaseResult) -> str:
    if not result.held_above:
        return "; see: sendq status"
    above = result.held_above[0]
    return f", but {above} is held: sendq release {options_of(above)} --reason …"
