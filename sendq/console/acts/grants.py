"""Hold and release: a grant, a provider, a tag, an application, or all grants that match."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sendq.console.acts.act import Act, Choice, Given, Preview, count, rate_choice
from sendq.console.runs import Facts
from sendq.console.texts import absolute
from sendq.errors import NotFound
from sendq.filters import GrantFilter
from sendq.operators import Operators
from sendq.scope import COUNT_MOST, Scope, ScopeState

SCOPE_FIELDS = ("grant", "provider", "tag", "application", "whole")

# The filters of grants in an address.
FILTERS = ("state", "rule", "provider", "application", "grant", "since")

SPANS = {
    "1h": ("1 hour", timedelta(hours=1)),
    "4h": ("4 hours", timedelta(hours=4)),
    "24h": ("1 day", timedelta(days=1)),
    "3d": ("3 days", timedelta(days=3)),
    "7d": ("7 days", timedelta(days=7)),
}


def scope_of(given: Given) -> Scope:
    """What the act concerns. Raises `NotFound` if the address names nothing."""
    grant, provider = given.get("grant"), given.get("provider")
    if grant is not None:
        return Scope.of_grant(grant, given.application)
    if provider is not None:
        return Scope.of_provider(provider, given.application)
    tag = given.get("tag")
    if tag is not None:
        return Scope.of_tag(tag, given.application)
    if given.get("whole") is None:
        raise NotFound("this address names neither a grant, a provider, a tag nor an application")
    return Scope.of_application(given.application)


def page_of(scope: Scope) -> tuple[str, ...]:
    """The page that shows a scope."""
    return ("accounts",) if scope.grant_id is None else ("accounts", scope.application, scope.grant_id)


def state_facts(state: ScopeState) -> list[tuple[str, str]]:
    """A scope as it is now."""
    waiting = count(state.waiting, "job") + (" or more" if state.waiting >= COUNT_MOST else "")
    facts = [("Waiting", waiting)]
    if state.closed:
        facts.append(("Now", "closed until its owner signs in again"))
    elif state.held_until is not None:
        facts.append(("Now", f"held until {absolute(state.held_until)} by {state.held_by} ({state.held_rule})"))
    else:
        facts.append(("Now", "not held"))
    return facts


class Hold(Act):
    """Pause a scope until a time."""

    name = "hold"
    fields = SCOPE_FIELDS

    def preview(self, operators: Operators, given: Given) -> Preview:
        """The waiting jobs that it would pause."""
        scope = scope_of(given)
        until = datetime.now(UTC) + timedelta(hours=1)
        result = operators.hold(scope, until=until, by=given.by, reason="-", dry_run=True)
        warnings = [] if result.before.known else ["It has had no job so far."]
        if not result.allowed:
            warnings.append("It is held for longer than an hour already; a shorter hold does not end that one.")
        return Preview(
            what=f"Hold {scope}",
            button="Hold",
            facts=state_facts(result.before),
            back=page_of(scope),
            warnings=warnings,
            choices=(_span_choice(),),
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        result = operators.hold(
            scope_of(given), until=datetime.now(UTC) + _span(given), by=given.by, reason=given.reason
        )
        yield (
            ("Result", f"held until {absolute(result.until)}" if result.done else "unchanged: it is held for longer"),
            ("Waiting", count(result.before.waiting, "job")),
        )


class Release(Act):
    """End a hold, or reopen a closed grant."""

    name = "release"
    fields = SCOPE_FIELDS

    def preview(self, operators: Operators, given: Given) -> Preview:
        """The hold that it would end."""
        scope = scope_of(given)
        result = operators.release(scope, by=given.by, reason="-", dry_run=True)
        warnings = [f"Its jobs will still wait: {one} is held." for one in result.held_above]
        if result.outcome is None:
            warnings.insert(0, "It is neither held nor closed: there is nothing to release.")
        elif result.before.closed:
            warnings.insert(0, "Its owner was asked to sign in again. If they have not, the next call closes it again.")
        return Preview(
            what=f"Release {scope}",
            button="Release",
            facts=state_facts(result.before),
            back=page_of(scope),
            warnings=warnings,
            possible=result.outcome is not None,
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """One step."""
        result = operators.release(scope_of(given), by=given.by, reason=given.reason)
        resumes = "its jobs start again within seconds" if result.scope.tag else "sending resumes with a single call"
        said = f"{result.outcome}; {resumes}" if result.done else "there was nothing to release"
        yield ("Result", said), ("Waiting", count(result.before.waiting, "job"))


class HoldAll(Act):
    """Hold each grant that matches until a time."""

    name = "hold-all"
    fields = FILTERS

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many grants."""
        until = datetime.now(UTC) + timedelta(hours=1)
        tried = operators.hold_grants(_filter(given), until=until, by=given.by, reason="-", dry_run=True).finish()
        grants = count(tried.held, "grant")
        longer = f"{count(tried.longer, 'grant')} more will stay held for longer."
        return Preview(
            what=f"Hold {grants}",
            button=f"Hold {grants}",
            facts=[("Grants that match", f"{tried.held + tried.longer:,}")],
            back=("accounts",),
            warnings=[longer] if tried.longer else [] if tried.held else ["No grant matches."],
            possible=tried.held > 0,
            choices=(_span_choice(),),
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A slice of the grants in each step."""
        until = datetime.now(UTC) + _span(given)
        for part in operators.hold_grants(_filter(given), until=until, by=given.by, reason=given.reason):
            yield ("Held", f"{part.held:,}"), ("Held for longer", f"{part.longer:,}"), ("Until", absolute(part.until))


class ReleaseAll(Act):
    """Release each grant that matches."""

    name = "release-all"
    fields = (*FILTERS, "until")

    def preview(self, operators: Operators, given: Given) -> Preview:
        """How many grants, and the jobs that wait behind them."""
        tried = operators.release_grants(_filter(given), by=given.by, reason="-", dry_run=True).finish()
        grants = count(tried.found, "grant")
        waiting = f"{tried.waiting or 0:,}" + (" or more" if tried.more_waiting else "")
        warnings = [f"The hold of {scope} ends too." for scope in tried.wide]
        if tried.reopened:
            closed = count(tried.reopened, "closed grant")
            warnings.append(
                f"Owners of {closed} were asked to sign in. Where they have not, the next call closes it again."
            )
        if not tried.found and not tried.wide:
            warnings.append("No grant that is held or closed matches.")
        return Preview(
            what=f"Release {grants}",
            button=f"Release {grants}",
            facts=[("Held", f"{tried.released:,}"), ("Closed", f"{tried.reopened:,}"), ("Waiting jobs", waiting)],
            back=("",),
            warnings=warnings,
            possible=bool(tried.found or tried.wide),
            choices=(rate_choice("all at once, each with a single call first"),),
        )

    def steps(self, operators: Operators, given: Given) -> Iterator[Facts]:
        """A slice of the grants in each step."""
        run = operators.release_grants(_filter(given), by=given.by, reason=given.reason, apart_s=given.apart_s)
        for part in run:
            wide = [(f"Hold of {scope}", "ended") for scope in part.wide]
            released = ("Released", f"{part.released + part.reopened:,} of {part.found:,}")
            yield released, ("Of these reopened", f"{part.reopened:,}"), *wide


def _filter(given: Given) -> GrantFilter:
    state = given.get("state")
    return GrantFilter(
        states=() if state is None else (state,),
        rule=given.get("rule"),
        provider=given.get("provider"),
        application=given.get("application"),
        grant_id=given.get("grant"),
        since=given.since,
        # By itself it is no filter: it would match everything.
        until=given.until if any(given.get(name) for name in FILTERS) else None,
    )


def _span_choice() -> Choice:
    return Choice("for", "For", tuple((name, label) for name, (label, _) in SPANS.items()), value="24h")


def _span(given: Given) -> timedelta:
    return SPANS.get(given.get("for") or "", SPANS["24h"])[1]
