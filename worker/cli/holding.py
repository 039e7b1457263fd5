"""Leave something alone and let it go on again: hold, release; and who is left alone: grants, events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from worker.cli.door import load_settings, open_ledger, read_ledger
from worker.cli.finding import check_grant_id
from worker.cli.output import FAILED, complain, json_option, tell, tell_json, tell_table, when
from worker.cli.params import LONGEST, by_option, duration, reason_option, since_option, time
from worker.cli.policies import PROVIDERS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sendq.clock import Micros
    from sendq.ledger.operators.holds import GrantLine, Released, Standing

F = TypeVar("F", bound=Callable[..., Any])

# Long enough to look into it, short enough that a forgotten hold ends within a day.
DEFAULT_HOLD = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a command concerns: a grant, a provider, or (neither) the whole application."""

    application: str
    grant: str | None
    provider: str | None

    def __str__(self) -> str:
        of = "" if self.application == "default" else f" of {self.application}"
        if self.grant is not None:
            return f"grant {self.grant}{of}"
        return f"provider {self.provider}{of}" if self.provider else f"application {self.application}"

    @property
    def pair(self) -> str:
        """The provider as the ledger has it."""
        return self.provider or "*"

    @property
    def options(self) -> str:
        """What names it on the command line."""
        if self.grant is not None:
            named = f"--grant {self.grant}"
        else:
            named = f"--provider {self.provider}" if self.provider else "--whole-application"
        return named if self.application == "default" else f"{named} --application {self.application}"

    def as_json(self) -> dict[str, Any]:
        """Its parts."""
        return {"application": self.application, "provider": self.provider, "grant_id": self.grant}


def scope_options(command: F) -> F:
    """``--grant``, ``--provider`` or ``--whole-application``; with ``--application``."""
    for option in (
        click.option("--application", default="default", show_default=True, help="The application that is meant."),
        click.option("--whole-application", is_flag=True, help="All lanes of the application."),
        click.option("--provider", type=click.Choice(PROVIDERS), help="All lanes of this provider."),
        click.option("--grant", metavar="ID", help="One grant."),
    ):
        command = option(command)
    return command


def _scope(application: str, grant: str | None, provider: str | None, whole_application: bool) -> Scope:
    if (grant is not None) + (provider is not None) + whole_application != 1:
        raise click.UsageError("say what: one of --grant, --provider and --whole-application")
    if not application or not application.isprintable():
        raise click.UsageError("--application is not a name")
    if grant is not None:
        check_grant_id(grant)
    return Scope(application, grant, provider)


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

    scope = _scope(application, grant, provider, whole_application)
    now = clock.now()
    end = _end(lasting, until, clock.moment(now))

    def act(connection: Connection) -> tuple[Standing, bool]:
        standing = _standing(connection, scope, now=now)
        if dry_run:
            return standing, standing.held_until is None or standing.held_until <= end
        return standing, _hold(connection, scope, until=clock.micros(end), by=by, reason=reason, now=now)

    with open_ledger(writes=not dry_run) as connection:
        standing, possible = act(connection)
    if as_json:
        done = {"done": possible and not dry_run, "dry_run": dry_run, "until": end.isoformat()}
        tell_json(scope.as_json() | _standing_json(standing) | done | {"by": by, "reason": reason})
    else:
        tell(f"{scope}: {_waiting(standing)}" + ("" if standing.known else "; it has had none so far"))
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

    scope = _scope(application, grant, provider, whole_application)
    now = clock.now()
    with open_ledger(writes=not dry_run) as connection:
        standing = _standing(connection, scope, now=now)
        above = _above(connection, scope, now=now)
        if dry_run:
            done: Released | None = (
                "reopened" if standing.closed else "released" if standing.held_until is not None else None
            )
        else:
            done = _release(connection, scope, by=by, reason=reason, now=now)
    if as_json:
        said = {"done": None if dry_run else done, "dry_run": dry_run, "by": by, "reason": reason}
        tell_json(scope.as_json() | _standing_json(standing) | said | {"held_above": [one.as_json() for one in above]})
    elif done is not None:
        tell(f"{scope}: {_waiting(standing)}")
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


def _hold(connection: Connection, scope: Scope, *, until: Micros, by: str, reason: str, now: Micros) -> bool:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.hold_grant(connection, scope.application, scope.grant, until=until, by=by, reason=reason, now=now)
    return holds.hold_pair(connection, scope.application, scope.pair, until=until, by=by, reason=reason, now=now)


def _release(connection: Connection, scope: Scope, *, by: str, reason: str, now: Micros) -> Released | None:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.release_grant(connection, scope.application, scope.grant, by=by, reason=reason, now=now)
    return holds.release_pair(connection, scope.application, scope.pair, by=by, reason=reason, now=now)


def _standing(connection: Connection, scope: Scope, *, now: Micros) -> Standing:
    from sendq.ledger.operators import holds

    if scope.grant is not None:
        return holds.grant_standing(connection, scope.application, scope.grant, now=now)
    return holds.pair_standing(connection, scope.application, scope.pair, now=now)


def _above(connection: Connection, scope: Scope, *, now: Micros) -> list[Scope]:
    """What is held around a scope: it waits for that as well."""
    from sendq.ledger.operators import holds

    around = holds.held_above(connection, scope.application, grant_id=scope.grant, provider=scope.provider, now=now)
    return [Scope(scope.application, None, None if provider == "*" else provider) for provider in around]


def _waiting(standing: Standing) -> str:
    from sendq.ledger.operators.holds import COUNT_MOST

    number = f"{standing.waiting:,}" + (" or more" if standing.waiting >= COUNT_MOST else "")
    return "1 job waits" if standing.waiting == 1 else f"{number} jobs wait"


def _standing_json(standing: Standing) -> dict[str, Any]:
    held_until = standing.held_until
    return {
        "known": standing.known,
        "waiting": standing.waiting,
        "closed": standing.closed,
        "held_until": held_until.isoformat() if held_until is not None else None,
        "held_rule": standing.held_rule,
        "held_by": standing.held_by,
    }


# --- who is left alone ------------------------------------------------------------------------------------------------


@click.command()
@click.option("--closed", is_flag=True, help="Only those whose owners must sign in again.")
@click.option("--held", is_flag=True, help="Only those that are left alone until a time.")
@click.option("--all", "everything", is_flag=True, help="The others as well.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many at most.")
@json_option
def grants(closed: bool, held: bool, everything: bool, limit: int, as_json: bool) -> None:
    """Grants that are closed or held: since when, why, how much waits, and where the owner of each signs in again."""
    from sendq import clock
    from sendq.ledger.operators.holds import grant_lines
    from worker.notifying.reauth import reauth_url

    if closed + held + everything > 1:
        raise click.UsageError("give one of --closed, --held and --all")
    states = ["closed"] if closed else ["held"] if held else ["closed", "held"] + ["open"] * everything
    settings, now = load_settings(), clock.now()
    lines = read_ledger(lambda connection: grant_lines(connection, states=states, limit=limit, now=now))
    urls = [
        reauth_url(settings, line.application, line.grant_id) if line.state == "closed" and not line.gone else None
        for line in lines
    ]
    if as_json:
        tell_json([line.as_json() | {"reauth_url": url} for line, url in zip(lines, urls, strict=True)])
        return
    if not lines:
        tell("no grant is " + " or ".join(states))
        return
    columns = ("grant", "state", "since", "until", "waiting", "rule", "by", "reason", "sign in again at")
    tell_table(columns, [_cells(line, url) for line, url in zip(lines, urls, strict=True)], folds=True)


def _cells(line: GrantLine, url: str | None) -> tuple[object, ...]:
    from sendq.ledger.operators.holds import LINE_COUNT_MOST

    name = line.grant_id if line.application == "default" else f"{line.grant_id} of {line.application}"
    state = "gone" if line.gone else "closed, being checked" if line.suspected else line.state
    missing = "set NYLAS_CLIENT_ID or SENDQ_REAUTH_URL" if line.state == "closed" and not line.gone else ""
    return (
        name, state, line.since, line.until,
        f"{line.waiting:,}" + (" or more" if line.waiting >= LINE_COUNT_MOST else ""),
        line.rule, line.by, line.reason, url or missing,
    )  # fmt: skip


@click.command()
@click.option("--grant", metavar="ID", help="Only what concerned this grant.")
@since_option("Only what happened since")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
def events(grant: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """What happened to grants and holds, and what operators did: the latest first, with author and time."""
    from sendq.clock import micros, moment
    from sendq.ledger.events import latest

    if grant is not None:
        check_grant_id(grant)
    at = None if since is None else micros(since)
    rows = read_ledger(lambda connection: latest(connection, limit=limit, grant_id=grant, since=at))
    if as_json:
        names = ("kind", "application", "provider", "grant_id", "rule", "by", "reason")
        tell_json(
            [
                {"at": moment(row.at).isoformat(), **{name: row._mapping[name] for name in names}}
                | {name: str(row._mapping[name]) if row._mapping[name] else None for name in ("job_id", "batch_id")}
                for row in rows
            ]
        )
        return
    if not rows:
        tell(f"nothing has happened to {'this grant' if grant else 'grants and holds'} {'since' if since else 'yet'}")
        return
    tell_table(
        ("at", "event", "concerns", "rule", "by", "reason"),
        [(when(moment(row.at)), row.kind, _concerns(row), row.rule, row.by, row.reason) for row in rows],
        folds=True,
    )


def _concerns(row: Any) -> str:
    """Whom, and (of what a person did) which job or batch; or the job whose answer it was."""
    scope = "" if row.application is None else str(Scope(row.application, row.grant_id, row.provider))
    job = f"job {row.job_id}" if row.job_id else f"batch {row.batch_id}" if row.batch_id else ""
    return ": ".join(part for part in (scope, job) if part)


COMMANDS = (hold, release, grants, events)
