"""``sendq dead``: dead letters, counted by rule or listed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from worker.cli.connection import open_operators
from worker.cli.filters import (
    batch_option,
    id_of,
    page_options,
    period_options,
    refuse_unknown_rule,
    rule_option,
    scope_options,
    tag_option,
    tell_of_more,
    whole_page,
)
from worker.cli.output import Column, json_option, tell, tell_json, tell_table
from worker.cli.rule_texts import words_of_rules

if TYPE_CHECKING:
    from sendq.views import DeadLetter, DeadLetterCount, Page
    from tasks.policy.words import Said


@click.command()
@rule_option("List the dead letters of this rule one by one, with the API's answer.")
@scope_options("dead letters")
@batch_option("Only dead letters of this batch.")
@tag_option("Only dead letters with this tag.")
@period_options("Only jobs given up")
@click.option("--each", type=click.Choice(("provider", "application")), help="Count them for each of these as well.")
@page_options()
@json_option
def dead(batch: str | None, each: str | None, limit: int, cursor: str | None, as_json: bool, **filters: Any) -> None:
    """Count dead letters by the rule that gave them up, with the reason, the remedy and the command that retries them.

    A dead letter is a job that was given up: it is not tried again unless it is retried by hand. With --rule they are
    listed one by one, the most recently given up first.
    """
    id_of(batch, "batch")
    rule = filters["rule"]
    if rule is None and cursor is not None:
        raise click.UsageError("--after goes with --rule")
    if rule is not None and each is not None:
        raise click.UsageError("--each is for counts, and --rule lists; give one of them")
    filters["batch_id"] = batch
    again = _options(filters)
    with open_operators() as operators:
        if rule is None:
            _tell_counts(operators.dead_letter_counts(**filters, each=each), each, again, as_json=as_json)
            return
        page = whole_page(
            lambda size, after: operators.dead_letters(**filters, limit=size, cursor=after), limit, cursor
        )
    _tell_letters(page, rule, again, as_json=as_json)


def _options(filters: Mapping[str, Any]) -> dict[str, str] | None:
    """The filters as options of ``retry``; None if it has none for one of them, and would retry more than is shown."""
    if filters["provider"] or filters["until"] or (filters["application"] and not filters["grant_id"]):
        return None
    names = {"--grant": "grant_id", "--application": "application", "--batch": "batch_id", "--tag": "tag"}
    found = {option: filters[name] for option, name in names.items() if filters[name] is not None}
    if filters["since"] is not None:
        found["--since"] = f"{filters['since']:%Y-%m-%dT%H:%M:%SZ}"
    return found


def _tell_counts(
    found: Sequence[DeadLetterCount], each: str | None, again: Mapping[str, str] | None, *, as_json: bool
) -> None:
    words = words_of_rules()
    if as_json:
        tell_json([_count_json(one, words, again) for one in found])
        return
    if not found:
        tell("no dead letters" + ("" if again == {} else " match"))
        return
    names = () if each is None else (each,)
    cells = [
        (one.rule, *(getattr(one, name) for name in names), f"{one.number:,}", one.oldest, one.newest) for one in found
    ]
    tell_table(("rule", *names, "dead letters", "first given up", "last given up"), cells)
    for rule in dict.fromkeys(one.rule for one in found):
        tell()
        _tell_rule(rule, words, again)


def _tell_letters(page: Page[DeadLetter], rule: str, again: Mapping[str, str] | None, *, as_json: bool) -> None:
    if not page.items:
        refuse_unknown_rule(rule)
    if as_json:
        tell_json(page.as_json())
        return
    if not page.items:
        tell(f"no dead letters of rule {rule}")
        return
    tell_table(
        (
            "job", "grant", "given up", "status", Column("the API's answer", folds=True),
            Column("operation", extra=True),
        ),
        [
            (one.id, one.grant_id, one.given_up_at, one.status or "", one.error or "", one.operation)
            for one in page.items
        ],
    )  # fmt: skip
    tell_of_more(page)
    tell()
    _tell_rule(rule, words_of_rules(), again)


def _tell_rule(rule: str | None, words: Mapping[str, Said], again: Mapping[str, str] | None) -> None:
    said = words.get(rule or "")
    tell(f"{rule}: " + (said.why if said else "not a rule of this policy; the worker may use another policy file"))
    if said is not None:
        tell(f"  remedy: {said.remedy}")
        if said.sent != "no":
            gone = "some recipients have the message" if said.sent == "partly" else "the message may have been sent"
            tell(f"  {gone}: it is retried only with --even-partly")
    command = _retry_command(rule, again)
    if command is not None:
        tell(f"  retry:  {command}")


def _count_json(one: DeadLetterCount, words: Mapping[str, Said], again: Mapping[str, str] | None) -> dict[str, Any]:
    said = words.get(one.rule or "")
    return one.as_json() | {
        "title": said and said.title,
        "why": said and said.why,
        "remedy": said and said.remedy,
        "sent": said and said.sent,
        "retry": _retry_command(one.rule, again),
    }


def _retry_command(rule: str | None, again: Mapping[str, str] | None) -> str | None:
    """The command that counts what it would retry, these dead letters; without --dry-run it retries them."""
    if rule is None or again is None:
        return None
    words = [word for name, value in again.items() for word in (name, value)]
    return shlex.join(["sendq", "retry", "--rule", rule, *words, "--dry-run"])
