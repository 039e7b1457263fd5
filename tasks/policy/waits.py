"""How long an answer asks us to wait: the header, the provider's data, or a time inside its text. Pure.

Nonsense counts as not stated: a wait that is negative, not a number, or longer than a week is nobody's intention (RFC
9110, 10.2.3 allows any; no provider's window is longer than a day). Where several are stated, the longest is
respected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice

PLAUSIBLE_S = 7 * 24 * 3600.0

_MOMENT = re.compile(
    r"(?:retry|try again|available|reset\w{0,8}|until)\D{0,40}?"
    r"(\d{4}-\d\d-\d\d[t ]\d\d:\d\d:\d\d)(?:\.\d{1,9})?\s?(z|utc|gmt|[+-]\d\d:?\d\d)?"
)
_AFTER = re.compile(
    r"(?:retry[\s_-]?after|try again (?:in|after)|wait(?: for)?|retry in)[\s:=\"']{1,4}"
    r"(\d{1,9}(?:\.\d{1,6})?)(?![-\d:])\s?"
    r"(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h)?\b"
)
# "Resets in 35 minutes", "will reset in 1.52 hours", "send again in 1 hour and 20 min": a span, and before it in the
# same sentence a word that says when something is possible again. "500 messages in 24 hours" states no wait.
_UNIT = r"(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?)\b"
_SPAN = re.compile(
    rf"\b(\d{{1,9}}(?:\.\d{{1,6}})?|an?|one)\s?{_UNIT}(?:(?:,| and)? (\d{{1,3}}(?:\.\d{{1,6}})?)\s?{_UNIT})?"
)
_POSSIBLE = re.compile(
    r"\b(?:retry|retried|try|again|later|wait|reset\w{0,8}|renew\w{0,8}|available|resum\w{0,8}|lifted|unblocked|unlocked"
    r"|back ?off)\b[^.;|\d]{0,40}(?:\b(?:in|after|for|within|wait|another|next|least|about|only)|[:=])[\s(~]{0,2}$"
)
_SPANS = 50  # a real answer names three at most
_FROM_NOW = re.compile(r"\s(?:later|from now)\b")
_AGAIN = re.compile(r"\b(?:retry|again|reset\w{0,8}|available)\b[^.;|\d]{0,20}$")
_POSSIBLE_CHARS = 64  # how far before a span its words are looked for
# "BackOffMilliseconds: 297749", "retry_after_ms=500": the unit stands in the name.
_NAMED = re.compile(
    r"(?:back[\s_-]?off|retry[\s_-]?after|retry[\s_-]?in)[\s_-]?(?:in[\s_-]?)?"
    r"(milliseconds|ms|seconds|secs|minutes)[\s:=\"']{1,4}(\d{1,9}(?:\.\d{1,6})?)"
)
_UNITS = {"ms": 0.001, "mi": 60.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 24 * 3600.0}


def stated_wait(headers: Mapping[str, str], text: str, data: Iterable[float] = (), *, now: float) -> float | None:
    """The wait in seconds that an answer states, or None. ``text`` is lower-case, ``now`` in unix seconds."""
    found = [
        _header(headers.get("retry-after", ""), now),
        _number(headers.get("retry-after-ms", "") or headers.get("x-ms-retry-after-ms", ""), 0.001),
        *data,
        *_in_text(text, now),
    ]
    plausible = [wait for wait in found if wait is not None and 0 < wait <= PLAUSIBLE_S]
    return max(plausible, default=None)


def _header(value: str, now: float) -> float | None:
    """``Retry-After``: seconds or a date."""
    value = value.strip()[:64]
    if (seconds := _number(value, 1.0)) is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return _moment(value.lower(), None, now) if re.match(r"\d{4}-\d\d-\d\d[tT ]", value) else None
    return _until(moment, now)


def _number(value: str, unit: float) -> float | None:
    return float(value) * unit if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value.strip(), re.ASCII) else None


def _in_text(text: str, now: float) -> Iterable[float | None]:
    for found in _MOMENT.finditer(text):
        yield _moment(found[1], found[2], now)
    for found in _AFTER.finditer(text):
        yield float(found[1]) * _scale(found[2] or "s")
    for found in _NAMED.finditer(text):
        yield float(found[2]) * _scale(found[1])
    for found in islice(_SPAN.finditer(text), _SPANS):
        before = text[max(0, found.start() - _POSSIBLE_CHARS) : found.start()]
        if _POSSIBLE.search(before) or (_FROM_NOW.match(text, found.end()) and _AGAIN.search(before)):
            number = 1.0 if found[1][0] in "ao" else float(found[1])
            rest = float(found[3]) * _scale(found[4]) if found[3] else 0.0
            yield number * _scale(found[2]) + rest


def _scale(unit: str) -> float:
    """The seconds in a unit as it is written."""
    return _UNITS["ms" if unit.startswith(("ms", "milli")) else unit[0]]


def _moment(stamp: str, zone: str | None, now: float) -> float | None:
    """The wait until a time written as in RFC 3339; without a zone it is UTC."""
    offset = zone if zone and zone[0] in "+-" else "+00:00"
    try:
        return _until(datetime.fromisoformat(stamp.upper()[:19] + offset), now)
    except ValueError:
        return None


def _until(moment: datetime, now: float) -> float | None:
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def until_midnight_pacific(now: float) -> float:
    """Seconds from ``now`` (unix) to the next midnight in California, when Google's daily quotas are reset.

    The zone's rule is written out (daylight time from the second Sunday in March to the first in November, since 2007):
    small images carry no time zone data. On the two days of the change the result may be an hour late, never early.
    """
    utc = datetime.fromtimestamp(now, UTC)
    standard = utc - timedelta(hours=8)
    begins = _sunday(standard.year, 3, 2)
    ends = _sunday(standard.year, 11, 1)
    local = standard + timedelta(hours=1) if begins < standard.date() < ends else standard
    midnight = datetime(local.year, local.month, local.day, tzinfo=UTC) + timedelta(days=1)
    return (midnight - local).total_seconds()


def _sunday(year: int, month: int, number: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(6 - first.weekday()) % 7 + 7 * (number - 1))
