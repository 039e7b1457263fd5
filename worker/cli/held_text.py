"""What is held or closed, by rule and provider, as a table; for every command that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker.cli.output import Column, tell_table

if TYPE_CHECKING:
    from sendq.views import HeldGroup

COLUMNS = (
    "rule", "provider", "state", "grants", "waiting", Column("first back"), Column("last back"),
    Column("since", extra=True), Column("oldest due", extra=True),
)  # fmt: skip


def tell_groups(groups: Sequence[HeldGroup]) -> None:
    """A table with a row for each group."""
    tell_table(COLUMNS, [group_cells(group) for group in groups])


def group_cells(group: HeldGroup) -> tuple[object, ...]:
    """A group as a row of the table."""
    provider = group.provider or "(all)"
    if group.application != "default":
        provider += f" of {group.application}"
    state = "sign-in needed" if group.first_back is None else "held"
    if group.scope != "grant":
        state = f"{group.scope} held"
    return (
        group.rule, provider, state, _number(group.grants, more=group.more_grants),
        _number(group.waiting, more=group.more_waiting), group.first_back, group.last_back, group.since, group.oldest,
    )  # fmt: skip


def _number(number: int, *, more: bool) -> str:
    return f"{number:,}" + ("+" if more else "")
