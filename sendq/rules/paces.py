"""Which pace a lane keeps: its provider's, changed by the rules for its application, provider or grant. Pure."""

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
    """A setting for the pace of some lanes. None leaves a value unchanged.

    It concerns one grant, or the lanes of an ``application`` or of a ``provider`` or of both. ``limits`` changes the
    provider's limits by name; None removes one. ``daily`` limits the messages within 24 hours.
    """

    application: str | None = None
    provider: str | None = None
    grant: str | None = None
    width: int | None = None
    limits: Mapping[str, Window | None] = field(default_factory=dict)
    daily: int | None = None

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """How specific it is: a grant over a provider over an application."""
        return self.grant is not None, self.provider is not None, self.application is not None

    def concerns(self, application: str, provider: str, grant_id: str) -> bool:
        """Whether it applies to this lane."""
        return (
            self.application in (None, application)
            and self.provider in (None, provider)
            and self.grant in (None, grant_id)
        )

    def applied(self, pace: Pace) -> Pace:
        """The pace with this rule applied."""
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
    """Every lane's pace. If several rules concern a lane, all are applied, the most specific last."""

    def __init__(self, rules: Sequence[PaceRule] = (), providers: Mapping[str, str] | None = None) -> None:
        """``providers``: for applications whose grants all have the same provider, that provider by application."""
        self.rules = tuple(sorted(rules, key=lambda rule: rule.rank))
        self._providers = dict(providers or {})

    def provider(self, application: str, said: str | None) -> str:
        """The provider of an application's grants, unless ``said`` names this grant's."""
        return said or self._providers.get(application, "unknown")

    def of(self, application: str, provider: str, grant_id: str) -> Pace:
        """The pace of a grant's lane."""
        pace = pace_of(provider)
        for rule in self.rules:
            if rule.concerns(application, provider, grant_id):
                pace = rule.applied(pace)
        return pace

    def own(self, application: str, provider: str, grant_id: str) -> str | None:
        """The pace as the lane stores it: None if it is its provider's default."""
        if not self.rules:
            return None
        pace = self.of(application, provider, grant_id)
        return None if pace == pace_of(provider) else written(pace)
