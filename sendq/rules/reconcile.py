"""Reconcile: what a look into the mailbox proves about a send whose outcome is unknown. Pure.

    in doubt ─▶ two early looks: found is final, however early; not found proves nothing yet
                │
                ▼  the key's hour is over, and the index has had time since the last request
             looks that count, at first 5 minutes apart, then less and less often
                ├─ found by either mark ────────────────────────▶ sent
                ├─ absent, proven twice ────────────────────────▶ a new generation (or expired, cancelled, given up)
                └─ anything else ───────────────────────────────▶ stays; after `Delays.look_for` the job's `Choice`

    refused, but it may have gone out all the same ─▶ one look, when the index has had its time
                ├─ found ───────────────────────────────────────▶ sent
                ├─ not found ───────────────────────────────────▶ a new generation (or expired, cancelled)
                └─ anything else ───────────────────────────────▶ stays; looked for again, less and less often

A message counts as found only if it *shows* one of its two marks. It counts as absent only if the query by the metadata
pair was answered, and a listing that covers the attempts was read to its end and shows, by the same mark, another job's
message that was accepted later: then the index works, and this provider keeps the header. A subject or a recipient
proves nothing, and neither does a missing pair alone, because it is not documented whether a send that timed out is
ever indexed.

A refusal of the only request (`Doubt.refused_at`) is evidence by itself: nothing is on its way any more, so the key's
hour does not matter, and the account asked for quiet. One whole listing that does not show the message settles it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.states import Event

# "Idempotent send": a key lives one hour from its first request. Until then a repeat could still be on its way.
KEY_LIFE: Micros = 3600 * SECOND

# The longest that the API works on a request, whichever page of its documentation is right (90, 120 or 150 s).
LONGEST_REQUEST: Micros = 150 * SECOND

# And how long a body of 25 MB may take to go out before that, as the client has it (100,000 bytes a second).
LONGEST_UPLOAD: Micros = 270 * SECOND
_UPLOADED = frozenset({"multipart", "mime"})

# A message that is found is proof at any time: most appear within minutes, and callers should not have to wait an hour.
# Only two early looks, the first when the request is surely over: a look costs the account as much as several
# modifications.
EARLY_LOOKS: tuple[Micros, ...] = (180 * SECOND, 20 * 60 * SECOND)

# Between two looks that count: 5, 10, 20, … minutes, up to 6 hours. Absence takes two of them, 5 minutes apart: a page
# that was served from a stale copy is not served from it twice.
APART: Micros = 5 * 60 * SECOND
RAREST: Micros = 6 * 3600 * SECOND
MISSES_NEEDED = 2

# The one look after a refusal is made this much later than it counts, because answers state the time in whole seconds.
ROUNDING: Micros = 2 * SECOND

# An API that does not answer is not asked for about as long as its outages last; it does not count as a look.
REFUSED_PAUSE: Micros = 15 * 60 * SECOND

# The choice is acted on only after at least this many answered looks, however much time was spent in holds.
LOOKS_LEAST = 3


class Choice(StrEnum):
    """What happens automatically when looks have not settled a job within `Delays.look_for`."""

    WAIT = "wait"  #      nothing: an operator resolves it; looks go on
    RESEND = "resend"  #  it is sent again, at the risk that a recipient gets it twice
    DEAD = "dead"  #      it is given up; also when its absence is proven


class Seen(StrEnum):
    """The result of a look."""

    FOUND = "found"
    ABSENT = "absent"  #    proven
    EARLY = "early"  #      not there, at a time that proves nothing
    SILENT = "silent"  #    not there, and no later message that shows the listing to be up to date
    CROWDED = "crowded"  #  more messages of that time than one look reads
    DRAFT = "draft"  #      there, but only as a draft: it may be about to be sent
    REFUSED = "refused"  #  a query was not answered


@dataclass(frozen=True, slots=True)
class Delays:
    """Settings: ``settle``: time for the index after the last request; ``look_for``: until the choice is acted on."""

    settle: Micros
    look_for: Micros


class Doubt(Protocol):
    """What is known about a job in doubt."""

    @property
    def form(self) -> str | None: ...
    @property
    def key_at(self) -> Micros | None: ...
    @property
    def doubt_at(self) -> Micros | None: ...
    @property
    def refused_at(self) -> Micros | None: ...
    @property
    def due_at(self) -> Micros: ...
    @property
    def expires_at(self) -> Micros | None: ...
    @property
    def cancel_at(self) -> Micros | None: ...
    @property
    def looks(self) -> int | None: ...
    @property
    def misses(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """The answers of one look.

    ``answered``: both queries were. ``whole``: the listing was read to its end. ``found``: the id of a message that
    shows one of the marks. ``draft``: a draft shows one. ``later``: the marks of other jobs' messages in the same
    listing that may have been accepted later; the ledger knows which of them were.
    """

    answered: bool
    whole: bool = False
    found: str | None = None
    draft: bool = False
    later: Collection[str] = ()


def last_request(job: Doubt) -> Micros:
    """The latest time at which a request that could have sent it may have been made."""
    return max(job.doubt_at or 0, job.key_at or 0) or job.due_at


def request_over(job: Doubt) -> Micros:
    """When the last request was surely over: when its refusal came, or else by the longest documented time that the API
    works on one.
    """
    if job.refused_at is not None:
        return job.refused_at
    upload = LONGEST_UPLOAD if job.form in _UPLOADED else 0
    return last_request(job) + upload + LONGEST_REQUEST


def counts_from(job: Doubt, delays: Delays) -> Micros:
    """From when on "not found" may count: the key's hour is over, and the index has had its time.

    If the key's first use is unknown, it is assumed to be as late as the last request. After a refusal only the index
    matters.
    """
    if job.refused_at is not None:
        return job.refused_at + delays.settle
    last = last_request(job)
    key_at = job.key_at if job.key_at is not None else last
    return max(key_at + KEY_LIFE, request_over(job) + delays.settle)


def first_look(job: Doubt, delays: Delays, *, now: Micros) -> Micros:
    """When the mailbox is first searched, or next before the time from which "not found" counts; after a refusal, not
    before that time.
    """
    if job.refused_at is not None:
        return max(now, counts_from(job, delays) + ROUNDING)
    last = last_request(job)
    times = [last + early for early in EARLY_LOOKS]
    counts = counts_from(job, delays)
    return min([at for at in times if now < at < counts], default=max(now, counts))


def next_look(job: Doubt, seen: Seen, delays: Delays, *, now: Micros) -> Micros:
    """When the mailbox is next searched after a look at ``now`` that settled nothing; ``job`` as it was before it."""
    if now < counts_from(job, delays) and job.refused_at is None:
        return first_look(job, delays, now=now + 1)
    if seen is Seen.REFUSED:
        return now + REFUSED_PAUSE
    if seen is Seen.ABSENT:
        return now + APART
    return now + min(RAREST, APART << min(job.looks or 0, 16))


def judge(look: Look, job: Doubt, delays: Delays, *, asked_at: Micros, later: bool) -> Seen:
    """What a look proves.

    A draft may be on its way out. One that a refused request has left behind, and that is still one after several
    looks, is not: the message did not go. ``asked_at`` is when the query was made, by the slower of our clock and the
    API's. ``later``: the ledger knows that one of `Look.later` was accepted by a request that was begun when the last
    one of this job was surely over.
    """
    if look.found is not None:
        return Seen.FOUND
    if not look.answered:
        return Seen.REFUSED
    if asked_at < counts_from(job, delays):
        return Seen.EARLY
    if look.draft and not (job.refused_at is not None and (job.looks or 0) >= MISSES_NEEDED):
        return Seen.DRAFT
    if not look.whole:
        return Seen.CROWDED
    return Seen.ABSENT if later or job.refused_at is not None else Seen.SILENT


def after_absence(job: Doubt, choice: Choice, *, now: Micros) -> Event | None:
    """What happens to a job whose absence one more look has proven; None: one more look is needed.

    A refused one is sent again whatever the choice: the choice is about unknown outcomes. So is one that is not due
    yet, at its due time: it is in doubt only because the ledger lost a part of its history.
    """
    if job.refused_at is not None:
        return _not_sent(job, now) or Event.RETURN
    if (job.misses or 0) + 1 < MISSES_NEEDED:
        return None
    give_up = choice is Choice.DEAD and job.due_at <= now
    return _not_sent(job, now) or (Event.GIVE_UP if give_up else Event.RETURN)


def by_itself(job: Doubt, choice: Choice, delays: Delays, *, gone: bool, now: Micros) -> Event | None:
    """What happens automatically to a job that looks could not settle; None: nothing (yet).

    A job that was cancelled or is past its expiry is not sent again on a guess: it is left to an operator. One that is
    not due yet has time for more looks. ``gone``: its grant no longer exists, so that no look is possible.
    """
    if now < counts_from(job, delays) + delays.look_for or choice is Choice.WAIT:
        return None
    if not gone and ((job.looks or 0) < LOOKS_LEAST or now < job.due_at):
        return None
    if choice is Choice.DEAD or gone:
        return Event.GIVE_UP
    return None if _not_sent(job, now) else Event.RETURN


def _not_sent(job: Doubt, now: Micros) -> Event | None:
    """How a job that has not gone out and must not any more ends."""
    if job.cancel_at is not None:
        return Event.CANCEL
    if job.expires_at is not None and now >= job.expires_at:
        return Event.EXPIRE
    return None
