"""How fast a lane may go, and when it wants its next turn. Pure: no clock, no ledger.

Each provider counts in its own units over its own windows ("6,000 units a minute, a send costs 100"). Each such limit
is kept as a bucket that fills evenly (GCRA): a short burst is allowed, and after it calls go at the rate that the limit
allows in the long run. In any window of a limit, wherever it begins, at most `KEPT` of the limit is used. A lane is in
one turn at a time, so this is exact without shared state.

The widths are ours, below what each provider allows (calls at once for one mailbox), because a send is several calls
to the provider behind Nylas's one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from typing import Any, Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.warm_up import daily_limit, days_until

PROVIDERS = ("google", "microsoft", "ews", "imap", "icloud", "yahoo", "nylas", "unknown")

# The kinds of calls that limits know: a job's operation, and a separate name for sends with attachments as parts.
CALLS = ("send", "multipart", "modify", "delete", "list", "restore")
SENDS = ("send", "multipart")

MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE

# The share of a provider's limit that is used in a window: requests arrive a little earlier or later than they start.
KEPT = 0.98

# The share of a limit that may go at once; the rest of its window has that much less.
BURST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Limit:
    """``units`` in any ``window`` (microseconds), of which a call costs ``costs[call]``; others are not counted.

    There must be units for at least two of the most expensive calls, or no burst is possible.

    burst     units that may go at once; at least the most expensive call
    interval  microseconds in which one unit grows back
    """

    name: str
    units: int
    window: Micros
    costs: Mapping[str, int]
    burst: float = field(init=False, repr=False, compare=False)
    interval: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Kept, because every start of a call is computed from them.
        burst = max(self.units * BURST_SHARE, max(self.costs.values()))
        object.__setattr__(self, "burst", burst)
        object.__setattr__(self, "interval", self.window / (self.units * KEPT - burst))


@dataclass(frozen=True, slots=True)
class Pace:
    """``width``: calls at once. ``daily``: messages in 24 hours, None: as many as the limits allow.

    ``learns``: the limit is not published, so throttles stretch the pace and successes relax it.
    """

    width: int
    limits: tuple[Limit, ...] = ()
    daily: int | None = None
    learns: bool = False


# `json.dumps` would make an encoder for each text.
_compact = json.JSONEncoder(separators=(",", ":")).encode

_ANY = dict.fromkeys(CALLS, 1) | {"restore": 2}  # it reads a message, and may modify it

# Nylas's own, per grant and second ("Rate limits").
NYLAS = (
    Limit("nylas", 200, SECOND, _ANY),
    Limit("nylas_multipart", 10, SECOND, {"multipart": 1}),
)

# Gmail API, "Usage limits": units by method. A send is about 115 with what Nylas reads afterwards, which its answer may
# state (`Pacer.correct`). A listing is a page of 20: `messages.list` and 20 × `messages.get`.
_GMAIL = {"send": 100, "multipart": 100, "modify": 5, "delete": 5, "list": 105, "restore": 10}
# One send is several requests to Graph: draft, upload, send, and reading it back (`Nylas-Provider-Request-Count`).
_GRAPH = {"send": 4, "multipart": 5, "modify": 1, "delete": 1, "list": 1, "restore": 2}
# Not documented: a send, and reading it back.
_EXCHANGE = {"send": 2, "multipart": 2, "modify": 1, "delete": 1, "list": 2, "restore": 2}
_SENDS = dict.fromkeys(SENDS, 1)

PACES: dict[str, Pace] = {
    # Both of Google's: 250 units a second and user, a moving average that allows short bursts; since May 2026 (in new
    # projects) also 6,000 a minute.
    "google": Pace(4, (*NYLAS, Limit("second", 2_500, 10 * SECOND, _GMAIL), Limit("minute", 6_000, MINUTE, _GMAIL))),
    # Graph allows 4 calls at once for one app and mailbox, 30 messages a minute and 10,000 requests in 10 minutes.
    "microsoft": Pace(
        2, (*NYLAS, Limit("messages", 30, MINUTE, _SENDS), Limit("requests", 10_000, 10 * MINUTE, _GRAPH))
    ),
    # 400 commands in 10 minutes, above that blocked for 20 minutes: never two at once.
    "ews": Pace(1, (*NYLAS, Limit("commands", 400, 10 * MINUTE, _EXCHANGE))),
    "imap": Pace(1, NYLAS, learns=True),  # SMTP servers count connections, and publish no limits
    "icloud": Pace(1, NYLAS),
    "yahoo": Pace(1, NYLAS, learns=True),
    # Agent Accounts: a limit per second of the whole organisation, whose size depends on the plan (Nylas queues short
    # bursts above it), and 200 messages a day on the free plan: `SENDQ_PACES` can state that as ``daily``.
    "nylas": Pace(2, NYLAS, learns=True),
    "unknown": Pace(2, NYLAS, learns=True),
}


def pace_of(provider: str) -> Pace:
    """The default pace of a lane whose provider is ``provider``."""
    return PACES.get(provider, PACES["unknown"])


def call_of(operation: str, form: str | None) -> str:
    """The kind of call that a job makes, as limits know it; ``form``: how its message is sent, None if it has none."""
    if operation == "read":  # a message, which costs as much as a modification with every provider
        return "modify"
    return "multipart" if operation == "send" and form in ("multipart", "mime") else operation


# --- a lane's own pace ------------------------------------------------------------------------------------------------


def written(pace: Pace) -> str:
    """A pace as text, to be kept with a lane; `read` reads it."""
    limits = [[limit.name, limit.units, limit.window, dict(sorted(limit.costs.items()))] for limit in pace.limits]
    return _compact([pace.width, limits, pace.daily, pace.learns])


@lru_cache(maxsize=4096)
def read(text: str | None, provider: str) -> Pace:
    """The pace that a lane keeps: its own, or else its provider's."""
    if text is None:
        return pace_of(provider)
    width, limits, daily, learns = json.loads(text)
    return Pace(width, tuple(Limit(name, units, window, costs) for name, units, window, costs in limits), daily, learns)


# --- what has been used of it -----------------------------------------------------------------------------------------

# A lane that is throttled by a provider without published limits keeps this distance between calls: doubled by each
# throttle, and a little less after each success.
STRETCH_FIRST: Micros = 1 * SECOND
STRETCH_MOST: Micros = 60 * SECOND
STRETCH_LEAST: Micros = SECOND // 20
RELAXED = 0.95

# A call is charged when it is begun, at most this long before its start (`sendq.rules.starts.LONGEST_PAUSE`, and more).
START_AHEAD: Micros = 2 * SECOND

# Requests arrive a little earlier or later than they start: calls that must be a second apart start further apart.
APART = 1.1

# Limits in whose units an answer may state what its call used (`tasks.calling.usage`); the costs in `PACES` are then
# only a first guess. An answer that states more than so many times that guess is not believed.
STATED = frozenset({"second", "minute", "requests", "commands"})
STATED_MOST = 10

# How long a lane must go without a throttle before it may drop the distance that it has to keep between modifications.
BEHAVES_AFTER: Micros = 10 * MINUTE


def stretched(stretch: Micros) -> Micros:
    """The distance between calls after one more throttle."""
    return min(STRETCH_MOST, max(STRETCH_FIRST, stretch * 2))


def relaxed(stretch: Micros, successes: int) -> Micros:
    """The distance between calls after some successes; zero once it is negligible."""
    left = round(stretch * RELAXED**successes)
    return left if left >= STRETCH_LEAST else 0


@dataclass(slots=True)
class Pacer:
    """When the next call of a lane may start. Made from what the ledger keeps; `take` charges a call.

    ``spacing`` is the least time between two modifications, ``stretch`` between any two calls (microseconds).
    """

    pace: Pace
    spacing: Micros = 0
    stretch: Micros = 0
    # By limit: when its bucket would be full again. Below: when the next modification, and the next call, may start.
    full_at: list[float] = field(default_factory=list)
    modify_at: Micros = 0
    call_at: Micros = 0
    hours: dict[int, int] = field(default_factory=dict)  # messages by hour since 1970, for the daily limit
    # By kind of call: what the last one used, as its answer stated it; what this turn's answers state counts from the
    # next turn on, so that a call is corrected by what it was charged.
    stated: dict[str, int] = field(default_factory=dict)
    learned: dict[str, int] = field(default_factory=dict)
    warm_up: str | None = None  # makes the pace's daily limit grow; `own_daily`: the limit without it
    own_daily: int | None = None

    def __post_init__(self) -> None:
        self.full_at += [0.0] * (len(self.pace.limits) - len(self.full_at))

    @property
    def text(self) -> str:
        """What has been used, to be kept with the lane; `pacer` reads it."""
        used: list[Any] = [[ceil(at) for at in self.full_at], self.modify_at, self.call_at]
        stated = self.stated | self.learned
        if self.hours or stated:
            used.append(self.hours)
        if stated:
            used.append(stated)
        return _compact(used)

    def cost(self, limit: Limit, call: str) -> int:
        """The units of a limit that a call of this kind is charged."""
        cost = limit.costs.get(call, 0)
        return self.stated.get(call, cost) if cost and limit.name in STATED else cost

    def start(self, call: str, now: Micros) -> Micros:
        """The earliest start of this kind of call, if no other goes before it."""
        at = float(max(now, self.call_at))
        if call not in SENDS:
            at = max(at, self.modify_at)
        for limit, full_at in zip(self.pace.limits, self.full_at, strict=True):
            cost = self.cost(limit, call)
            if cost:
                at = max(at, full_at + (cost - limit.burst) * limit.interval)
        if self.pace.daily is not None and call in SENDS:
            at = max(at, self._day_allows(self.pace.daily, now))
        return ceil(at)

    def start_of(self, number: int, call: str, now: Micros) -> Micros:
        """About when the ``number``-th of such calls starts, if only the pace delays them."""
        at = float(self.start(call, now) + (number - 1) * self._distance(call))
        for limit, full_at in zip(self.pace.limits, self.full_at, strict=True):
            cost = self.cost(limit, call)
            at = max(at, max(full_at, now) + (number * cost - limit.burst) * limit.interval)
        if self.pace.daily is not None and call in SENDS:
            at = max(at, now + self._days(sum(self.hours.values()) + number, now) * 24 * HOUR)
        return round(at)

    def _days(self, number: int, now: Micros) -> int:
        """After how many days the message of this number is sent, if only the daily limit delays it."""
        if self.warm_up is not None:
            return days_until(self.warm_up, number, now=now, daily=self.own_daily)
        assert self.pace.daily is not None
        return (number - 1) // self.pace.daily

    @property
    def day_is_full(self) -> bool:
        """Whether the daily limit is used up; messages of more than 24 hours ago may still count."""
        return self.pace.daily is not None and sum(self.hours.values()) >= self.pace.daily

    def _distance(self, call: str) -> Micros:
        return max(self.stretch, 0 if call in SENDS else self.spacing)

    def take(self, call: str, at: Micros) -> None:
        """Charge a call of this kind that starts at ``at``."""
        for position, limit in enumerate(self.pace.limits):
            cost = self.cost(limit, call)
            if cost:
                self.full_at[position] = max(self.full_at[position], at) + cost * limit.interval
        self.call_at = at + self.stretch
        if call not in SENDS:
            self.modified(at)
        elif self.pace.daily is not None:
            hour = at // HOUR
            self.hours = {then: sent for then, sent in self.hours.items() if then > hour - DAY_HOURS}
            self.hours[hour] = self.hours.get(hour, 0) + 1

    def correct(self, call: str, units: int, *, succeeded: bool) -> None:
        """An answer states that a call of this kind, charged by this pacer, used ``units`` of its provider's limits.

        The next ones are expected to use as much if it ``succeeded``: one that was refused may have used less.
        """
        for position, limit in enumerate(self.pace.limits):
            guess = limit.costs.get(call, 0)
            if guess and limit.name in STATED and units <= STATED_MOST * guess:
                self.full_at[position] += (units - self.cost(limit, call)) * limit.interval
                if succeeded and units:
                    self.learned[call] = units

    def believe(self, now: Micros) -> None:
        """Nothing that was used can reach further ahead than this pace allows: a clock that was ahead wrote it."""
        for position, full_at in enumerate(self.full_at):
            if full_at > now:  # seldom: most buckets are full when a turn begins
                limit = self.pace.limits[position]
                # A full burst, started up to `START_AHEAD` from now, and corrected by an answer.
                most = limit.burst + STATED_MOST * max(limit.costs.values(), default=0)
                self.full_at[position] = min(full_at, now + START_AHEAD + most * limit.interval)
        self.modify_at = min(self.modify_at, now + START_AHEAD + round(self.spacing * APART))
        self.call_at = min(self.call_at, now + START_AHEAD + self.stretch)
        this = now // HOUR
        if any(hour > this for hour in self.hours):
            late = sum(sent for hour, sent in self.hours.items() if hour > this)
            self.hours = {hour: sent for hour, sent in self.hours.items() if hour <= this}
            self.hours[this] = self.hours.get(this, 0) + late

    def latest_start(self, now: Micros) -> Micros:
        """The latest start that this pace asks for, of any kind of call."""
        return max(self.start(call, now) for call in CALLS)

    def modified(self, at: Micros) -> None:
        """Note that a modification started at ``at``, which may be later than was planned."""
        self.modify_at = max(self.modify_at, at + round(self.spacing * APART))

    def drain(self, now: Micros) -> None:
        """It is unknown what was used last (its worker died): no bursts before the buckets have filled again."""
        self.full_at = [
            max(full_at, now + limit.burst * limit.interval)
            for limit, full_at in zip(self.pace.limits, self.full_at, strict=True)
        ]

    def ready_at(self, now: Micros) -> Micros:
        """The earliest start of any call, which is that of the cheapest."""
        return min(self.start("send", now), self.start("modify", now))

    def _day_allows(self, daily: int, now: Micros) -> Micros:
        """When the daily limit has room again: when the oldest hours leave the last 24."""
        this = now // HOUR
        recent = sorted((hour, sent) for hour, sent in self.hours.items() if hour > this - DAY_HOURS)
        left = sum(sent for _, sent in recent)
        for hour, sent in recent:
            if left < daily:
                break
            left -= sent
            now = max(now, (hour + DAY_HOURS) * HOUR)
        return now


# The daily limit looks at whole hours, so that a message counts for 24 to 25 of them.
DAY_HOURS = 25


def pacer(
    pace: Pace, used: str | None, *, now: Micros, spacing: Micros = 0, spacing_until: Micros = 0, stretch: Micros = 0
) -> Pacer:
    """The pacer of a lane: its pace and stored use. If the number of limits has changed, their use starts at zero."""
    made = Pacer(pace, spacing=spacing if now < spacing_until else 0, stretch=stretch)
    if used is not None:
        full_at, made.modify_at, made.call_at, *more = json.loads(used)
        if len(full_at) == len(pace.limits):
            made.full_at = full_at
        if more:
            made.hours = {int(hour): sent for hour, sent in more[0].items()}
            made.stated = dict(*more[1:2])
        made.believe(now)
    return made


def stated_costs(used: str | None) -> dict[str, int]:
    """By kind of call: the units of the provider's limits that the last one used, if its answer stated them.

    ``used`` is a lane's, in the form of `Pacer.text`.
    """
    more = [] if used is None else json.loads(used)[4:]
    return dict(more[0]) if more else {}


class Paced(Protocol):
    """The fields of a lane that its pace depends on."""

    @property
    def provider(self) -> str: ...
    @property
    def pace(self) -> str | None: ...
    @property
    def used(self) -> str | None: ...
    @property
    def spacing(self) -> Micros: ...
    @property
    def spacing_until(self) -> Micros: ...
    @property
    def stretch(self) -> Micros: ...
    @property
    def warm_up(self) -> str | None: ...


def pacer_of(lane: Paced, *, now: Micros) -> Pacer:
    """The pacer of a lane as the ledger has it."""
    pace = own = read(lane.pace, lane.provider)
    if lane.warm_up is not None:
        pace = replace(own, daily=daily_limit(lane.warm_up, now=now, daily=own.daily))
    made = pacer(pace, lane.used, now=now, spacing=lane.spacing, spacing_until=lane.spacing_until, stretch=lane.stretch)
    made.warm_up, made.own_daily = lane.warm_up, own.daily
    return made


def next_turn_at(
    waiting_at: Micros | None, *, ready_at: Micros, held_until: Micros | None, closed: bool
) -> Micros | None:
    """When a lane next wants a turn, given when its first waiting job is due; None: not by itself.

    A closed lane (reauth required) wants none until it is opened.
    """
    if closed or waiting_at is None:
        return None
    return max(waiting_at, ready_at, held_until or 0)


# An application or provider whose last success is older than this has to prove itself again: its key may have been
# revoked meanwhile, and 500 calls would be on the wire before the first 401 comes back.
PROVEN_FOR: Micros = 10 * 60 * SECOND

# From this value on a pair's ramp does not limit any more: it is more calls at once than most installations make.
RAMP_MOST = 512


# How long other calls wait for a call of a pair that has to prove itself: one mailbox that hangs says nothing about the
# application's key.
PROBE_PATIENCE: Micros = 2 * SECOND


def probing_room(ramp: int, *, young: int, old: int) -> int:
    """How many more calls a pair may begin while it is not known to work.

    ``young`` calls were begun within `PROBE_PATIENCE`; ``old`` ones were begun before and have no answer yet. Each old
    one allows one more, so that the number doubles with calls that hang as it does with calls that succeed.
    """
    return ramp + old - young


def next_ramp(ramp: int, width: int, *, succeeded: bool) -> int:
    """Slow start: the next number of calls at once; doubled after a success up to ``width``, else unchanged."""
    return min(width, ramp * 2) if succeeded else ramp
