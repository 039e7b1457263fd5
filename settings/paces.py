"""``SENDQ_PACES``: JSON that becomes a list of `sendq.rules.paces.PaceRule`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sendq.rules.pace import PACES
from sendq.rules.paces import PaceRule, Window
from settings.values import refuse

_SHAPE = 'write [{"provider": "google", "limits": {"minute": 15000}}, {"grant": "…", "width": 1, "daily": 500}]'
_LIMITS = sorted({limit.name for pace in PACES.values() for limit in pace.limits})


class LimitWindow(BaseModel):
    """At most ``units`` in any ``window_s`` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    units: int = Field(gt=0)
    window_s: float | None = Field(default=None, gt=0, le=86_400)


def _window(value: object) -> object:
    return {"units": value} if isinstance(value, int) and not isinstance(value, bool) else value


class PaceSetting(BaseModel):
    """One element of ``SENDQ_PACES``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    application: str | None = None
    provider: Literal["google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas", "unknown"] | None = None
    grant: str | None = None
    width: int | None = Field(default=None, ge=1, le=100)
    daily: int | None = Field(default=None, ge=1)
    limits: dict[str, Annotated[LimitWindow | None, BeforeValidator(_window)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.application is None and self.provider is None and self.grant is None:
            raise refuse("has no target", "name an application, a provider or a grant")
        known = (
            PACES[self.provider].limits if self.provider else [one for pace in PACES.values() for one in pace.limits]
        )
        for name, window in self.limits.items():
            limits = [limit for limit in known if limit.name == name]
            if not limits:
                raise refuse("names an unknown limit", f"limits are {', '.join(_LIMITS)}")
            least = 2 * max(max(limit.costs.values()) for limit in limits)
            if window is not None and window.units < least:
                raise refuse(f"allows too few units for two calls in the limit {name}", f"set at least {least}")
        return self

    @property
    def rule(self) -> PaceRule:
        """The same as the rule that the dispatcher applies."""
        windows = {name: None if w is None else Window(w.units, w.window_s) for name, w in self.limits.items()}
        return PaceRule(
            application=self.application,
            provider=self.provider,
            grant=self.grant,
            width=self.width,
            limits=windows,
            daily=self.daily,
        )


def _listed(value: object) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise refuse("is not JSON", _SHAPE) from None
    if not isinstance(value, list | tuple):
        raise refuse("is not a JSON list", _SHAPE)
    return value


PaceSettings = Annotated[tuple[PaceSetting, ...], BeforeValidator(_listed)]
