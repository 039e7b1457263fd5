"""Windows: the hours of the week in which jobs may begin, by the clock of a time zone. Pure.

The clock on the wall decides. A window is open at an instant if a clock in its zone then shows one of its hours, on one
of its days, which is no holiday. So, when the clocks change:

    hours that are skipped      never come: a window that would open within them opens when they are over, and one that
                                lies within them does not open on that day
    hours that are repeated     come twice, and the window is open in both

A window that goes over midnight belongs to the day on which it opens: ``22:00-06:00`` on ``fri`` ends on Saturday, and
a holiday takes away the night that begins on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from sendq.clock import SECOND, Micros, micros_in, moment
from sendq.errors import InvalidArgument, Problem
from sendq.facts.lanes import Lane
from sendq.rules.preflight import must_be_repeated

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

# A window is copied with every change of its job's row.
MOST_HOLIDAYS = 100

# A window that does not open for so long is taken for one that never does.
HORIZON_DAYS = 366

_DAY: Micros = 24 * 60 * 60 * SECOND

# Offsets from UTC are compared this far apart. No zone changes its clocks, and back, within so short a time.
_SAMPLE: Micros = 6 * 60 * 60 * SECOND

# A job whose window cannot be read here (a newer version wrote it, or this machine has no time zone data) is looked at
# again after this; maybe another worker claims it then.
UNREADABLE_RECHECK: Micros = 60 * SECOND

_hours = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", re.ASCII).fullmatch

Span = tuple[Micros, Micros]


@dataclass(frozen=True, slots=True)
class Window:
    """When jobs may begin: ``Window("09:00-17:30", days="mon-fri", tz="Europe/Berlin")``.

    Attributes:
        hours: from (included) and to (excluded), as ``HH:MM-HH:MM``; ``22:00-06:00`` goes over midnight, and
            ``00:00-24:00`` is the whole day.
        days: the days on which it opens, like ``mon-fri``, ``sat,sun`` or ``mon,wed-fri``.
        tz: the name of a time zone in the IANA database.
        holidays: days on which it does not open, at most 100.

    Raises:
        InvalidArgument: (a ``ValueError``) lists every problem with its field.
    """

    hours: str
    _: KW_ONLY
    tz: str
    days: str = "mon-sun"
    holidays: Iterable[date] = ()
    _begin: int = field(init=False, repr=False, compare=False)  # minutes after midnight
    _end: int = field(init=False, repr=False, compare=False)  # likewise; over midnight, 24 hours more
    _weekdays: frozenset[int] = field(init=False, repr=False, compare=False)
    _closed: frozenset[date] = field(init=False, repr=False, compare=False)
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        begin, end = _read_hours(self.hours, problems)
        weekdays = _read_days(self.days, problems)
        zone = _read_zone(self.tz, problems)
        holidays = _read_holidays(self.holidays, problems)
        if problems or zone is None:
            raise InvalidArgument([problem.under("window") for problem in problems])
        days, closed = _written_days(weekdays), ",".join(day.isoformat() for day in holidays)
        values = {
            "days": days, "holidays": holidays, "_begin": begin, "_end": end, "_zone": zone,
            "_weekdays": frozenset(weekdays), "_closed": frozenset(holidays),
            "_text": f"{self.hours} {days} {self.tz} {closed}".rstrip(),
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """As the ledger and the command line have it: ``09:00-17:30 mon-fri Europe/Berlin 2026-12-25,2026-12-26``."""
        return self._text

    @property
    def says(self) -> str:
        """The same for people: holidays are only counted."""
        number = len(self._closed)
        but = f", except on {number} holiday{'s' * (number > 1)}" if number else ""
        return f"{self.hours} {self.days} {self.tz}{but}"

    def is_open(self, at: Micros) -> bool:
        """Whether jobs may begin at this time."""
        local = moment(at).astimezone(self._zone)
        minute, day = local.hour * 60 + local.minute, local.date()
        if self._begin <= minute < self._end and self._opens_on(day):
            return True
        return minute < self._end - _MINUTES and self._opens_on(day - timedelta(days=1))

    def opens_at(self, at: Micros) -> Micros | None:
        """The first time from ``at`` on at which it is open; None: not within a year."""
        if self.is_open(at):
            return at
        return next((begin for begin, _ in self._pieces(at, at + HORIZON_DAYS * _DAY)), None)

    def spans(self, begin: Micros, end: Micros) -> Iterator[Span]:
        """The times from ``begin`` to ``end`` at which it is open, in their order; none touches the next."""
        last: Span | None = None
        for span in self._pieces(begin, end):
            if last is not None and span[0] <= last[1]:
                last = (last[0], max(last[1], span[1]))
                continue
            if last is not None:
                yield last
            last = span
        if last is not None:
            yield last

    def after_open_time(self, begin: Micros, length: Micros) -> Micros:
        """When it has been open for so long since ``begin``; at most a year later."""
        end = begin + HORIZON_DAYS * _DAY
        for first, last in self._pieces(begin, end):
            if length <= last - first:
                return first + length
            length -= last - first
        return end

    def clock(self, at: Micros) -> str:
        """A time as a clock in its zone shows it: ``09:00 Mon 2026-06-01 in Europe/Berlin``."""
        return f"{moment(at).astimezone(self._zone):%H:%M %a %Y-%m-%d} in {self.tz}"

    def _opens_on(self, day: date) -> bool:
        return day.weekday() in self._weekdays and day not in self._closed

    def _pieces(self, begin: Micros, end: Micros) -> Iterator[Span]:
        """As `spans`, in parts: while the offset from UTC stays the same, local times are a matter of addition."""
        at = begin
        while at < end:
            until = min(at + _SAMPLE, end)
            offset = self._offset(at)
            if self._offset(until) != offset:
                until = self._change(at, until)
            yield from self._with_offset(at, until, offset)
            at = until

    def _with_offset(self, begin: Micros, end: Micros, offset: Micros) -> Iterator[Span]:
        day = moment(begin + offset).date() - timedelta(days=1)
        last = moment(end + offset).date()
        while day <= last:
            if self._opens_on(day):
                midnight = (day - _EPOCH).days * _DAY - offset
                opens, closes = midnight + self._begin * _MINUTE, midnight + self._end * _MINUTE
                if max(opens, begin) < min(closes, end):
                    yield max(opens, begin), min(closes, end)
            day += timedelta(days=1)

    def _offset(self, at: Micros) -> Micros:
        offset = moment(at).astimezone(self._zone).utcoffset()
        assert offset is not None
        return micros_in(offset)

    def _change(self, before: Micros, after: Micros) -> Micros:
        """The first time with another offset than ``before``'s, between the two. Clocks change at whole seconds."""
        offset = self._offset(before)
        low, high = before // SECOND, -(-after // SECOND)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(middle * SECOND) == offset:
                low = middle
            else:
                high = middle
        return high * SECOND


_MINUTE: Micros = 60 * SECOND
_MINUTES = 24 * 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).date()


def _read_hours(hours: object, problems: list[Problem]) -> tuple[int, int]:
    remedy = "pass a string like 09:00-17:30"
    if not isinstance(hours, str):
        problems.append(Problem("hours", "is not a string", remedy))
    elif (found := _hours(hours)) is None:
        problems.append(Problem("hours", "is not of the form HH:MM-HH:MM", remedy))
    else:
        begin, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if begin >= _MINUTES or end > _MINUTES:
            problems.append(Problem("hours", "has a time that does not exist", "use 00:00 to 23:59; 24:00 as the end"))
        elif begin == end:
            problems.append(Problem("hours", "is empty: it never opens", "for the whole day pass 00:00-24:00"))
        return begin, end if end > begin else end + _MINUTES
    return 0, 0


def _read_days(days: object, problems: list[Problem]) -> list[int]:
    remedy = "pass a string like mon-fri, or sat,sun"
    if not isinstance(days, str):
        problems.append(Problem("days", "is not a string", remedy))
        return []
    found: set[int] = set()
    for part in days.lower().replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            reason = "is empty: it never opens" if not days.strip() else f"has a day other than {', '.join(DAYS)}"
            problems.append(Problem("days", reason, remedy))
            return []
        begin = DAYS.index(first)
        number = (DAYS.index(last) - begin) % 7 if dash else 0
        found |= {(begin + more) % 7 for more in range(number + 1)}
    return sorted(found)


def _written_days(weekdays: list[int]) -> str:
    """The days in one form: ``mon-wed,fri``."""
    runs: list[list[int]] = []
    for day in weekdays:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs)


def _read_zone(tz: object, problems: list[Problem]) -> ZoneInfo | None:
    if isinstance(tz, str):
        try:
            return ZoneInfo(tz)
        except (ValueError, LookupError, OSError):  # what it raises for a name that is none, a path or a folder
            pass
    reason = "is not a known time zone" if isinstance(tz, str) else "is not the name of a time zone"
    remedy = "pass a name like Europe/Berlin; if this machine has no time zones, install tzdata"
    problems.append(Problem("tz", reason, remedy))
    return None


def has_zones() -> bool:
    """Whether this machine has time zone data: those of its system, or the package tzdata."""
    try:
        ZoneInfo.no_cache("Europe/Berlin")
    except (LookupError, OSError):
        return False
    return True


def _read_holidays(holidays: object, problems: list[Problem]) -> tuple[date, ...]:
    remedy = "pass a list like [date(2026, 12, 25)]"
    if isinstance(holidays, str | bytes) or not isinstance(holidays, Iterable):
        problems.append(Problem("holidays", "is not a list of dates", remedy))
        return ()
    found: set[date] = set()
    for position, day in enumerate(holidays):
        if not isinstance(day, date) or isinstance(day, datetime):
            problems.append(Problem(f"holidays[{position}]", "is not a date", remedy))
            return ()
        found.add(day)
    if len(found) > MOST_HOLIDAYS:
        reason = f"has more than {MOST_HOLIDAYS} days"
        problems.append(Problem("holidays", reason, "pass those of the next months only"))
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def read_window(stored: str) -> Window:
    """A window as `Window.__str__` writes it; the days may be left out. Raises `InvalidArgument`."""
    parts = stored.split()
    if len(parts) == 2:  # hours and zone
        parts.insert(1, "mon-sun")
    if not 3 <= len(parts) <= 4:  # hours, days, zone, and holidays if there are any
        remedy = "write one like 09:00-17:30 mon-fri Europe/Berlin"
        raise InvalidArgument([Problem("window", "is not of the form HOURS DAYS ZONE", remedy)])
    try:
        holidays = [date.fromisoformat(day) for day in parts[3].split(",")] if parts[3:] else []
    except ValueError:
        remedy = "write them like 2026-12-25,2026-12-26"
        raise InvalidArgument([Problem("window.holidays", "has something that is not a date", remedy)]) from None
    return Window(parts[0], days=parts[1], tz=parts[2], holidays=holidays)


def readable_window(stored: str) -> Window | None:
    """As `read_window`; None: a newer version wrote it, or this machine has no time zone data."""
    try:
        return read_window(stored)
    except InvalidArgument:
        return None


@lru_cache(maxsize=4096)
def first_opening(window: Window, at: Micros) -> Micros | None:
    """As `Window.opens_at`; remembered, because a call asks for many jobs with the same window."""
    return window.opens_at(at)


class Windowed(Protocol):
    """The columns of a job that are read here."""

    @property
    def operation(self) -> str: ...
    @property
    def doubt_at(self) -> Micros | None: ...
    @property
    def time_window(self) -> str | None: ...


def put_off_until(job: Windowed, lane: Lane, *, now: Micros) -> Micros | None:
    """When the window of a job opens that is closed now; None: it may begin. A job's own window wins over its lane's.

    A send that may have gone out already is never put off: its repeat is safe only while the API remembers its key.
    """
    stored = job.time_window or lane.time_window
    if stored is None or must_be_repeated(job.operation, job.doubt_at):
        return None
    opens_at = next_opening(stored, now)
    return opens_at if opens_at > now else None


def next_opening(stored: str | None, at: Micros) -> Micros:
    """When jobs with a stored window (None: they have none) may begin, from ``at`` on."""
    if stored is None:
        return at
    window = readable_window(stored)
    if window is None:
        return at + UNREADABLE_RECHECK
    opens_at = first_opening(window, at)
    return at + HORIZON_DAYS * _DAY if opens_at is None else opens_at
