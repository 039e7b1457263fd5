"""Budgets: at most so many sends of an application, or of one of its tags, begin in a minute, an hour or a day. Pure.

Windows are fixed and follow UTC: an hour's begins at the full hour, a day's at midnight. So no more than a budget
begins within any of these windows; within 60 minutes across a full hour it may be up to twice as many. A repeat of a
send that may have gone out is not counted and never waits: it is safe only while the API remembers its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.rules.preflight import must_be_repeated
from sendq.rules.rule_ids import AFTER
from sendq.rules.tags import check_tag, each_tag

# The tag under which a budget of a whole application is stored.
WHOLE = ""

UNITS = {"min": 60 * SECOND, "h": 3_600 * SECOND, "d": 86_400 * SECOND}
_NAMES = {UNITS["min"]: "minute", UNITS["h"]: "hour", UNITS["d"]: "day"}
_WITH_ARTICLE = {UNITS["min"]: "a minute", UNITS["h"]: "an hour", UNITS["d"]: "a day"}
MOST = 1_000_000_000

# Lanes that wait for a new window begin one after another, in its first twentieth, or first ten seconds.
_SPREAD_SHARE = 20
LONGEST_SPREAD: Micros = 10 * SECOND

# Application, tag and length of the windows.
Name = tuple[str, str, Micros]

_amount = re.compile(r"(-?[0-9]{1,20})\s*/\s*([a-z]+)").fullmatch


@dataclass(frozen=True, slots=True, order=True)
class Budget:
    """At most ``most`` sends begin in each window of ``per`` microseconds; ``tag``: `WHOLE` or one like ``a=b``."""

    application: str
    tag: str
    most: int
    per: Micros

    @property
    def name(self) -> Name:
        """What there is one count of: workers whose settings have other windows do not reset it."""
        return self.application, self.tag, self.per


def said(application: str, tag: str, most: int, per: Micros) -> str:
    """A budget as words."""
    of_tag = f", tag {tag}" if tag else ""
    return f"{most:,} {_WITH_ARTICLE.get(per, 'in a window')} for application {application}{of_tag}"


def unit(per: Micros) -> str:
    """The name of a window's length: minute, hour or day."""
    return _NAMES.get(per, f"{per // SECOND} s")


def read_budget(name: str, amount: object) -> Budget:
    """A budget as the setting has it: ``shop campaign=may`` and ``200/d``.

    Raises:
        ValueError: its name or amount is wrong; the text says why, without a remedy.
    """
    application, _, tag = name.partition(" ")
    if not application:
        raise ValueError("does not begin with an application")
    if name != application and (problems := check_tag(tag)):
        raise ValueError(f"names a tag that {problems[0].reason}")
    if not isinstance(amount, str) or (found := _amount(amount.strip())) is None:
        raise ValueError("is not a number of sends and a unit")
    most, per = int(found[1]), UNITS.get(found[2])
    if per is None:
        raise ValueError("has an unknown unit")
    if most < 1:
        raise ValueError("allows no send")
    if most > MOST:
        raise ValueError(f"allows more than {MOST:,} sends")
    return Budget(application, tag, most, per)


class Counted(Protocol):
    """What decides whether budgets count a job."""

    @property
    def operation(self) -> str: ...
    @property
    def doubt_at(self) -> Micros | None: ...
    @property
    def tags(self) -> str | None: ...
    @property
    def rule(self) -> str | None: ...


class Budgets:
    """All budgets, by application and tag."""

    def __init__(self, budgets: Iterable[Budget] = ()) -> None:
        self._of: dict[str, dict[str, Budget]] = {}
        for budget in budgets:
            self._of.setdefault(budget.application, {})[budget.tag] = budget

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def all(self) -> tuple[Budget, ...]:
        """All of them."""
        return tuple(budget for of_tag in self._of.values() for budget in of_tag.values())

    def of(self, application: str, job: Counted) -> tuple[Budget, ...]:
        """The budgets that count a job when it begins: its application's and those of its tags."""
        known = self._of.get(application)
        if known is None or job.operation != "send" or must_be_repeated(job.operation, job.doubt_at):
            return ()
        if job.rule == AFTER:  # it does not begin at all
            return ()
        return tuple(known[tag] for tag in (WHOLE, *each_tag(job.tags)) if tag in known)


@dataclass(slots=True)
class Use:
    """How much of a budget is used in the window that begins at ``window_at``; ``over_at``: since when sends wait for
    the next one, also of an earlier window.
    """

    budget: Budget
    window_at: Micros
    used: int
    over_at: Micros | None

    @property
    def has_room(self) -> bool:
        """Whether one more send may begin."""
        return self.used < self.budget.most

    @property
    def ends_at(self) -> Micros:
        """When the next window begins."""
        return self.window_at + self.budget.per

    def go_over(self, now: Micros) -> None:
        """Note that a send has to wait: once in a window."""
        if self.over_at is None or self.over_at < self.window_at:
            self.over_at = max(now, self.window_at)


def use_of(budget: Budget, window_at: Micros, used: int, over_at: Micros | None, *, now: Micros) -> Use:
    """What is used now, by what was stored last.

    A worker whose clock is behind counts in the window that another has begun.
    """
    current = window_of(now, budget.per)
    return Use(budget, max(window_at, current), used if window_at >= current else 0, over_at)


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A budget as the ledger has it, used up in a window that ends at ``until``."""

    application: str
    tag: str
    most: int
    per: Micros
    until: Micros

    @property
    def says(self) -> str:
        """For people: ``500 an hour for application shop``."""
        return said(self.application, self.tag, self.most, self.per)


def goes_on_at(use: Use, lane_id: UUID, place: int = 0) -> Micros:
    """When a job that is over a budget may begin: not those of all lanes at the same moment. ``place``: how many of its
    lane wait before it. Of those that cannot begin in the next window only one is looked at in it: it shows that more
    wait than may begin, and takes the place of one that is cancelled.
    """
    per = use.budget.per
    begins_at = use.ends_at + max(0, place - 1) // use.budget.most * per
    # In another order in each window, or the lane that is first in all of them could use up each.
    window = (begins_at // per).to_bytes(8, "big")
    return begins_at + int.from_bytes(blake2b(lane_id.bytes + window, digest_size=8).digest(), "big") % spread_of(per)


def spread_of(per: Micros) -> Micros:
    """Over how much of a window, at its beginning, lanes begin one after another."""
    return min(per // _SPREAD_SHARE, LONGEST_SPREAD)


def window_of(at: Micros, per: Micros) -> Micros:
    """When the window began in which a time lies."""
    return at - at % per
