"""Reconcile: what a look into the mailbox says about a send whose outcome nobody knows. Pure.

    in doubt ─▶ two early looks: found is found, however early; not found says nothing yet
                │
                ▼  the key's hour is over, and the index has had time since the last request
             looks that count, at first 5 minutes apart, then ever more rarely
                ├─ found by either mark ────────────────────────▶ sent
                ├─ absent, proven twice ────────────────────────▶ a new generation (or expired, cancelled, given up)
                └─ anything else ───────────────────────────────▶ stays; after `Delays.look_for` the job's choice

A message counts as found only if it *shows* one of its two marks. It counts as absent only if the question by the
metadata pair was answered and a listing was read whole that covers the attempts and shows, by the same mark, another
job's message that was accepted later: then the index is alive, and this provider keeps the header. Nothing follows from
a subject or a recipient, and nothing from a missing pair alone, for whether a send that timed out is ever indexed is
documented nowhere.
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

# The longest that the API works on a request, whichever of its pages is right (90, 120 or 150 s).
LONGEST_REQUEST: Micros = 150 * SECOND

# And how long a body of 25 MB may take to go out before that, as the client has it (100,000 bytes a second).
LONGEST_UPLOAD: Micros = 270 * SECOND
_UPLOADED = frozenset({"multipart", "mime"})

# Found is found: most messages show within minutes, and who waits for an answer should not wait for an hour. Asked
# twice, when the request is surely over and once more: a question costs the account as much as several modifications.
EARLY_LOOKS: tuple[Micros, ...] = (180 * SECOND, 20 * 60 * SECOND)

# Between two looks that count: 5, 10, 20, … minutes, up to 6 hours. Absence is shown by two of them, 5 minutes apart:
# a page that was served from a stale copy is not served from it twice.
APART: Micros = 5 * 60 * SECOND
RAREST: Micros = 6 * 3600 * SECOND
MISSES_NEEDED = 2

# An API that does not answer is left alone for as long as its own outages tend to last; it does not count as a look.
REFUSED_PAUSE: Micros = 15 * 60 * SECOND

# What happens by itself happens after so many answered questions at least, however much time was spent in holds.
LOOKS_LEAST = 3


class Choice(StrEnum):
    """What happens by itself once looking was in vain for `Delays.look_for`."""

    WAIT = "wait"  #      nothing: a person settles it; looks go on
    RESEND = "resend"  #  it is sent again, at the risk that somebody gets it twice
    DEAD = "dead"  #      it is given up; so it is when its absence is proven


class Seen(StrEnum):
    """What a look met."""

    FOUND = "found"
    ABSENT = "absent"  #    proven
    EARLY = "early"  #      not there, at a time that proves nothing
    SILENT = "silent"  #    not there, and no later message that shows the listing to be up to date
    CROWDED = "crowded"  #  more messages of that time than one look reads
    DRAFT = "draft"  #      there as a draft only: who knows whether it is about to go
    REFUSED = "refused"  #  the question was not answered


@dataclass(frozen=True, slots=True)
class Delays:
    """Settings: ``settle`` for the index after the last request; ``look_for``: until the choice is acted on."""

    settle: Micros
    look_for: Micros


class Doubt(Protocol):
    """What is known of a job in doubt."""

    @property
    def form(self) -> str | None: ...
    @property
    def key_at(self) -> Micros | None: ...
    @property
    def doubt_at(self) -> Micros | None: ...
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
    """What one look brought.

    ``answered``: both questions were. ``whole``: the listing was read to its end. ``found``: the id of a message that
    shows one of the marks. ``draft``: one does, and is a draft. ``later``: the marks of other jobs' messages in the
    same listing that may have been accepted later; which of them were, the ledger knows.
    """

    answered: bool
    whole: bool = False
    found: str | None = None
    draft: bool = False
    later: Collection[str] = ()


def last_request(job: Doubt) -> Micros:
    """When the last request may have been made that could have sent it."""
    return max(job.doubt_at or 0, job.key_at or 0) or job.due_at


def request_over(job: Doubt) -> Micros:
    """When the last request was over, whoever is right about how long the API works on one."""
    upload = LONGEST_UPLOAD if job.form in _UPLOADED else 0
    return last_request(job) + upload + LONGEST_REQUEST


def counts_from(job: Doubt, delays: Delays) -> Micros:
    """From when on "not found" may count: the key's hour is over, and the index has had its time.

    Where the key's first use is not known, it is taken for as late as the last request.
    """
    last = last_request(job)
    key_at = job.key_at if job.key_at is not None else last
    return max(key_at + KEY_LIFE, request_over(job) + delays.settle)


def first_look(job: Doubt, delays: Delays, *, now: Micros) -> Micros:
    """When the mailbox is asked first, or next before the time from which "not found" counts."""
    last = last_request(job)
    times = [last + early for early in EARLY_LOOKS]
    counts = counts_from(job, delays)
    return min([at for at in times if now < at < counts], default=max(now, counts))


def next_look(job: Doubt, seen: Seen, delays: Delays, *, now: Micros) -> Micros:
    """When the mailbox is asked again after a look at ``now`` that settled nothing; ``job`` as it was before it."""
    if now < counts_from(job, delays):
        return first_look(job, delays, now=now + 1)
    if seen is Seen.REFUSED:
        return now + REFUSED_PAUSE
    if seen is Seen.ABSENT:
        return now + APART
    return now + min(RAREST, APART << min(job.looks or 0, 16))


def judge(look: Look, job: Doubt, delays: Delays, *, asked_at: Micros, later: bool) -> Seen:
    """What a look says.

    ``asked_at`` is when the question was put, by the slower of our clock and the API's. ``later``: the ledger knows one
    of `Look.later` as accepted through a request that was begun when the last one of this job was surely over.
    """
    if look.found is not None:
        return Seen.FOUND
    if not look.answered:
        return Seen.REFUSED
    if asked_at < counts_from(job, delays):
        return Seen.EARLY
    if look.draft:
        return Seen.DRAFT
    if not look.whole:
        return Seen.CROWDED
    return Seen.ABSENT if later else Seen.SILENT


def after_absence(job: Doubt, choice: Choice, *, now: Micros) -> Event | None:
    """What becomes of a job whose absence one more look has proven; None: that is not enough yet."""
    if (job.misses or 0) + 1 < MISSES_NEEDED:
        return None
    return _not_sent(job, now) or (Event.GIVE_UP if choice is Choice.DEAD else Event.RETURN)


def by_itself(job: Doubt, choice: Choice, delays: Delays, *, gone: bool, now: Micros) -> Event | None:
    """What happens to a job that looking could not settle; None: nothing (yet).

    A job that was cancelled, or whose time is over, is not sent again on a guess: it is left to a person. ``gone``: its
    grant exists no more, so that nobody can look.
    """
    if now < counts_from(job, delays) + delays.look_for or choice is Choice.WAIT:
        return None
    if not gone and (job.looks or 0) < LOOKS_LEAST:
        return None
    if choice is Choice.DEAD or gone:
        return Event.GIVE_UP
    return None if _not_sent(job, now) else Event.RETURN


def _not_sent(job: Doubt, now: Micros) -> Event | None:
    """How a job ends that has not gone out and may not any more."""
    if job.cancel_at is not None:
        return Event.CANCEL
    if job.expires_at is not None and now >= job.expires_at:
        return Event.EXPIRE
    return None
