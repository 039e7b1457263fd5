"""Which pace a lane keeps: its provider's, changed by what was said of its application, provider or grant. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sendq.clock import SECOND
from sendq.rules.pace import Limit, Pace, pace_of, written


@dataclass(frozen=True, slots=True)
class Window:
    """Another size of one limit; ``window_s`` None: over the same window as before."""

    units: int
    window_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceRule:
    """What somebody said of some lanes. What is None is left as it was.

    It concerns one grant, or the lanes of an ``application`` or of a ``provider`` or of both. ``limits`` changes the
    provider's by their names; None takes one away. ``daily`` is a budget of messages in 24 hours.
    """

    application: str | None = None
    provider: str | None = None
    grant: str | None = None
    width: int | None = None
    limits: Mapping[str, Window | None] = field(default_factory=dict)
    daily: int | None = None

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """How specific it is: a grant before a provider before an application."""
        return self.grant is not None, self.provider is not None, self.application is not None

    def concerns(self, application: str, provider: str, grant_id: str) -> bool:
        """Whether it is about this lane."""
        return (
            self.application in (None, application)
            and self.provider in (None, provider)
            and self.grant in (None, grant_id)
        )

    def applied(self, pace: Pace) -> Pace:
        """That pace, changed."""
        limits = [changed for limit in pace.limits if (changed := self._limit(limit)) is not None]
        return replace(
            pace,
            width=pace.width if self.width is None else self.width,
            limits=tuple(limits),
            daily=pace.daily if self.daily is None else self.daily,
        )

    def _limit(self, limit: Limit) -> Limit | None:
        if limit.name not in self.limits:
            return limit
        window = self.limits[limit.name]
        if window is None:
            return None
        length = limit.window if window.window_s is None else round(window.window_s * SECOND)
        return replace(limit, units=window.units, window=length)


class Paces:
    """Every lane's pace. Where several rules concern a lane, each has its say and the most specific one the last."""

    def __init__(self, rules: Sequence[PaceRule] = (), providers: Mapping[str, str] | None = None) -> None:
        """``providers``: by application, whose provider is the same for all of its grants."""
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rank))
        self._providers = dict(providers or {})

    def provider(self, application: str, said: str | None) -> str:
        """Whose the grants of an application are, unless somebody ``said`` it of this one."""
        return said or self._providers.get(application, "unknown")

    def of(self, application: str, provider: str, grant_id: str) -> Pace:
        """The pace of a grant's lane."""
        pace = pace_of(provider)
        for rule in self.rules:
            if rule.concerns(application, provider, grant_id):
                pace = rule.applied(pace)
        return pace

    def own(self, application: str, provider: str, grant_id: str) -> str | None:
        """The pace as the lane keeps it: None, if it is simply its provider's."""
        if not self.rules:
            return None
        pace = self.of(application, provider, grant_id)
        return None if pace == pace_of(provider) else written(pace)
