"""``sendq dead``: dead letters by rule."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import read_ledger
from worker.cli.filters import (
    batch_option,
    grant_options,
    id_of,
    lane_of,
    page_options,
    refuse_unknown_rule,
    rule_option,
    tell_of_more,
)
from worker.cli.output import json_option, tell, tell_json, tell_table
from worker.cli.params import since_option
from worker.cli.rule_texts import words_of_rules

if TYPE_CHECKING:
    from sendq.ledger.reading.dead_letters import OfRule, Which
    from tasks.policy.words import Said


@click.command()
@rule_option("One by one, those that this rule gave up, with what the API said.")
@grant_options("Those of this grant.")
@batch_option("Those of this batch.")
@since_option("Those given up since")
@page_options()
@json_option
def dead(
    rule: str | None,
    grant: str | None,
    application: str,
    batch: str | None,
    since: datetime | None,
    after: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Dead letters by the rule that gave them up: how many, since when, what to do, and how they go round again.

    With --rule they are listed one by one, those that were given up last first.
    """
    from sendq.clock import micros
    from sendq.ledger.reading.dead_letters import Which, by_rule

    which = Which(rule, lane_of(application, grant), id_of(batch, "batch"), None if since is None else micros(since))
    given = {"--grant": grant, "--application": None if application == "default" else application}
    given |= {"--batch": batch, "--since": None if since is None else f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    if rule is None and after is not None:
        raise click.UsageError("--after goes with --rule")
    if rule is not None:
        _tell_letters(which, given, after=after, limit=limit, as_json=as_json)
        return
    found = read_ledger(lambda connection: by_rule(connection, which))
    words = words_of_rules()
    if as_json:
        tell_json([_rule_json(one, words, given) for one in found])
        return
    if not found:
        tell("there is no dead letter" + (" that fits" if which != Which() else ""))
        return
    columns = ("rule", "dead letters", "given up first", "given up last")
    tell_table(columns, [(one.rule, f"{one.number:,}", one.oldest, one.newest) for one in found])
    for one in found:
        tell()
        _tell_rule(one.rule, words, given)


def _tell_letters(
    which: Which, given: Mapping[str, str | None], *, after: str | None, limit: int, as_json: bool
) -> None:
    from sendq.ledger.reading.dead_letters import letters

    behind = id_of(after, "job")
    found = read_ledger(lambda connection: letters(connection, which, after=behind, limit=limit + 1))
    if not found:
        refuse_unknown_rule(which.rule)
    shown = found[:limit]
    if as_json:
        tell_json([letter.as_json() for letter in shown])
        return
    if not shown:
        tell(f"there is no dead letter of {which.rule}")
        return
    columns = ("job", "operation", "grant", "given up", "status", "what the API said")
    tell_table(
        columns,
        [(one.id, one.operation, one.grant_id, one.given_up_at, one.status or "", one.error or "") for one in shown],
        folds=True,
    )
    tell_of_more(len(found) > limit, shown[-1].id)
    tell()
    _tell_rule(which.rule, words_of_rules(), given)


def _tell_rule(rule: str | None, words: Mapping[str, Said], given: Mapping[str, str | None]) -> None:
    said = words.get(rule or "")
    tell(f"{rule}: " + (said.why if said else "no row that this command knows; its worker may have rows of its own"))
    if said is not None:
        tell(f"  remedy: {said.remedy}")
        if said.sent != "no":
            gone = "some people have such a message" if said.sent == "partly" else "such a message may have gone out"
            tell(f"  {gone}: it goes round again only with --even-partly")
    if rule is not None:
        tell(f"  then:   {_retry_command(rule, given)}")


def _rule_json(one: OfRule, words: Mapping[str, Said], given: Mapping[str, str | None]) -> dict[str, Any]:
    said = words.get(one.rule or "")
    return {
        "rule": one.rule,
        "number": one.number,
        "oldest": one.oldest.isoformat(),
        "newest": one.newest.isoformat(),
        "title": said and said.title,
        "why": said and said.why,
        "remedy": said and said.remedy,
        "sent": said and said.sent,
        "retry": None if one.rule is None else _retry_command(one.rule, given),
    }


def _retry_command(rule: str, given: Mapping[str, str | None]) -> str:
    """What sends the same dead letters round again, counted first."""
    words: Sequence[str] = [word for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join(["sendq", "retry", "--rule", rule, *words, "--dry-run"])
