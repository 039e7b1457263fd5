"""Finds what a reader cannot see in the table: rows that compete for a text, are hidden, or have no case. Pure.

The first row that fits wins, so a text that two rows claim is settled by their order alone: a row that is moved, or a
text that is added above, may silently take another row's failures. Golden cases show which pairs meet in real answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from tasks.policy.explain import outcome_of
from tasks.policy.failure import Failure
from tasks.policy.policy_file import covers, outcome
from tasks.policy.row import Policy, Row, Text


class Kind(StrEnum):
    """What is found. The first two are mistakes; `BOTH` is worth a look when either row changes."""

    UNREACHED = "unreached"  # no golden case meets the row
    HIDDEN = "hidden"  #        a text of the row always meets an earlier row
    BOTH = "both"  #            a golden text fits two rows that decide differently


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding about a row; ``other`` is the earlier row that takes its failures, if there is one."""

    kind: Kind
    row: str
    other: str | None
    says: str


def lint(policy: Policy, cases: Iterable[Mapping[str, Any]]) -> list[Remark]:
    """Everything found, in the table's order.

    A case has the arguments of `tasks.policy.explain.outcome_of`, and a ``name``.
    """
    tried = [(str(case.get("name", "a case")), failure) for case in cases if (failure := _failure_of(case)) is not None]
    found = [*_hidden(policy), *_unreached(policy, tried), *_both(policy, tried)]
    place = {row.id: index for index, row in enumerate(policy.rows)}
    return sorted(found, key=lambda remark: (place[remark.row], remark.kind))


def _failure_of(case: Mapping[str, Any]) -> Failure | None:
    given = {name: case[name] for name in ("provider", "operation", "headers", "body", "fault") if name in case}
    outcome = outcome_of(status=case.get("status"), now=0, **given)
    return outcome if isinstance(outcome, Failure) else None


def _hidden(policy: Policy) -> Iterator[Remark]:
    for index, row in enumerate(policy.rows):
        for text in row.text:
            alone = replace(row, type=(), text=(text,))
            earlier = next((one for one in policy.rows[:index] if covers(one, alone)), None)
            if earlier is not None:
                yield Remark(Kind.HIDDEN, row.id, earlier.id, f"{_quoted(text)} always meets {earlier.id} first")


def _unreached(policy: Policy, tried: list[tuple[str, Failure]]) -> Iterator[Remark]:
    reached = {policy.rule(failure).id for _, failure in tried}
    for row in policy.rows:
        if row.id not in reached:
            yield Remark(Kind.UNREACHED, row.id, None, "no test case reaches it")


def _both(policy: Policy, tried: list[tuple[str, Failure]]) -> Iterator[Remark]:
    seen: set[tuple[str, str]] = set()
    for name, failure in tried:
        winner, *losers = [row for row in policy.rows if row.fits(failure)]
        for row in losers:
            if _is_specific(row) and outcome(row) != outcome(winner) and (winner.id, row.id) not in seen:
                seen.add((winner.id, row.id))
                yield Remark(Kind.BOTH, row.id, winner.id, f"{winner.id} wins where both fit, as in {name!r}")


def _is_specific(row: Row) -> bool:
    """Whether a row asks for more than a status; those that catch the rest fit everything, and are meant to."""
    return bool(row.text or row.type or row.smtp)


def _quoted(text: Text) -> str:
    return f"“{text if isinstance(text, str) else ' … '.join(text)}”"
