"""Lists: filters as fields and as chips, all of them in the address; pages by cursor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sendq.console.asked import Asked
from sendq.console.texts import words
from sendq.errors import NotFound

# Rows of a page.
ROWS = 50

PERIODS: Mapping[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
PERIOD_LABELS = {"15m": "last 15 minutes", "1h": "last hour", "24h": "last 24 hours", "7d": "last 7 days",
                 "30d": "last 30 days"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of a list: its name in the address, its label, and (for one with few values) its choices."""

    name: str
    label: str
    choices: Sequence[str] = ()
    labels: Mapping[str, str] | None = None

    def says(self, value: str) -> str:
        """A value as it is shown."""
        return (self.labels or {}).get(value, words(value) if self.choices else value)


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter in force, and the address of the list without it."""

    label: str
    value: str
    without: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list."""

    items: Sequence[Any]
    filters: Sequence[Filter]
    chosen: Mapping[str, str]
    chips: Sequence[Chip]
    first: str | None
    next: str | None

    @property
    def filtered(self) -> bool:
        """Whether any filter is in force."""
        return bool(self.chips)


PROVIDER = Filter("provider", "Provider", ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas", "unknown"))
APPLICATION = Filter("application", "Application")
GRANT = Filter("grant", "Grant")
RULE = Filter("rule", "Rule")
BATCH = Filter("batch", "Batch")
TAG = Filter("tag", "Tag")
SINCE = Filter("since", "Since", tuple(PERIODS), PERIOD_LABELS)

# The names of the filters in the calls of `Operators`.
_NAMES = {"grant": "grant_id", "batch": "batch_id", "job": "job_id"}


def chosen_of(asked: Asked, filters: Iterable[Filter]) -> dict[str, str]:
    """The filters that the address has. A value that is no choice is left out."""
    found = {one.name: value for one in filters if (value := asked.get(one.name)) is not None}
    return {
        one.name: found[one.name]
        for one in filters
        if one.name in found and (not one.choices or found[one.name] in one.choices)
    }


def arguments(asked: Asked, chosen: Mapping[str, str]) -> dict[str, Any]:
    """The filters as arguments of a call of `Operators`."""
    given: dict[str, Any] = {_NAMES.get(name, name): value for name, value in chosen.items()}
    if "since" in given:
        given["since"] = since(given["since"], asked.now)
    return given


def since(period: str, now: datetime) -> datetime | None:
    """When a period began. Whole minutes, so that the same page asks the same for a while."""
    ago = PERIODS.get(period)
    return None if ago is None else (now - ago).replace(second=0, microsecond=0)


def listed(
    asked: Asked, filters: Sequence[Filter], chosen: Mapping[str, str], items: Sequence[Any], after: str | None
) -> Listed:
    """A page of a list, with the addresses of the next and the first one. ``after``: the next one's cursor."""
    chips = [Chip(one.label, one.says(chosen[one.name]), asked.here(**{one.name: None}))
             for one in filters if one.name in chosen]  # fmt: skip
    first = asked.here() if asked.get("after") else None
    return Listed(items, filters, chosen, chips, first, None if after is None else asked.here(after=after))


def missing(what: str) -> NotFound:
    """The error for a page that does not exist."""
    return NotFound(what)
