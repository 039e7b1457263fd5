"""Words and numbers on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

MINUTE, HOUR, DAY = 60, 3600, 86_400


class RuleText(Protocol):
    """What a rule of the error policy says to people (`tasks.policy.words.Said` is one).

    ``sent``: whether the message may have gone out by it: ``no``, ``maybe``, ``partly``, ``yes``.
    """

    @property
    def title(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def sent(self) -> str: ...


Rules = Mapping[str, RuleText]

# A state or kind, and how its label is coloured: good, bad, warn, busy, or plain.
TONES: Mapping[str, str] = {
    "sent": "good", "delivered": "good", "open": "good", "running": "good", "done": "good", "finished": "good",
    "dead": "bad", "closed": "bad", "gone": "bad", "silent": "bad", "given up": "bad", "stopped": "bad",
    "failed": "bad", "refused": "bad", "dead letter": "bad", "reauth": "bad", "being checked": "bad",
    "held": "warn", "in doubt": "warn", "expired": "warn", "stopping": "warn", "retry": "warn", "requeue": "warn",
    "sending": "busy", "served": "busy", "listing": "busy", "making": "busy", "working": "busy",
}  # fmt: skip


def words(name: object) -> str:
    """A state, kind or decision for people: ``in_doubt`` is "in doubt"."""
    return str(name).replace("_", " ")


def tone(name: object) -> str:
    """How the label of a state is coloured."""
    return TONES.get(words(name), "plain")


def number(value: float) -> str:
    """A number with separators."""
    return f"{value:,.0f}"


def absolute(at: datetime) -> str:
    """A time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def relative(at: datetime, now: datetime) -> str:
    """A time as people say it: ``3 min ago``, ``in 2 h``."""
    seconds = (at - now).total_seconds()
    if abs(seconds) < 1:
        return "now"
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def span(seconds: float) -> str:
    """A duration in its largest unit, and the next one where it matters: ``45 s``, ``12 min``, ``3 h 20 min``."""
    seconds = max(0.0, seconds)
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds // MINUTE:.0f} min"
    if seconds < 2 * DAY:
        hours, minutes = divmod(int(seconds) // MINUTE, 60)
        return f"{hours} h" if not minutes or hours >= 10 else f"{hours} h {minutes} min"
    days, hours = divmod(int(seconds) // HOUR, 24)
    return f"{days} days" if not hours or days >= 10 else f"{days} d {hours} h"
