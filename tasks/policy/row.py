"""What a row of the policy is: which failures it fits, and what it says about them. Pure.

A row fits a failure if every condition that it states holds. ``type`` and ``text`` are two signals for one thing (the
same error arrives typed, or only in words), so either is enough: a text is a piece of the failure's lower-case text,
or several pieces that must all be there. ``unless`` is the opposite: texts that look alike and mean something else. A
piece that is an enhanced status code (``5.1.8``) is not found inside a longer number, an IP address or a version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sendq.clock import SECOND, Micros, seconds
from sendq.facts.outcomes import Scope, Sent
from tasks.policy.failure import Failure

DAY_S = 24 * 3600.0

Status = int | str  # 429, "4xx", or "none" where no answer came
Text = str | tuple[str, ...]


class Route(StrEnum):
    """What happens to the job."""

    RETRY = "retry"  #              again by itself, after a backoff; each time costs an attempt unless the row says so
    REQUEUE = "requeue"  #          its scope is paused for a while; uses up no attempt
    REAUTH = "reauth"  #            waits until the person signs in again; costs nothing
    DEAD_LETTER = "dead_letter"  #  given up and kept, for a person to look at


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a hold lasts, in seconds: ``min(cap, max(floor, stated or default))``.

    ``default`` may be a function of unix time (until midnight). With ``grows`` it doubles for each incident that
    follows another without a success between them, up to 32 times the default; what is stated does not grow.
    """

    default: float | Callable[[float], float]
    floor: float = 1.0
    cap: float = DAY_S
    grows: bool = False

    def lasts(self, stated: Micros | None, *, now: Micros, streak: int = 0) -> Micros:
        base = self.default(now / SECOND) if callable(self.default) else self.default
        grown = seconds(base * 2 ** min(streak, 5) if self.grows else base)
        return min(seconds(self.cap), max(seconds(self.floor), stated or grown))


@dataclass(frozen=True, slots=True)
class Backoff:
    """Retries with jitter: the n-th waits between ``base / 2`` and ``min(cap, base * 2**(n-1))`` seconds.

    ``number`` is how many attempts a job may have under this row, the first included; None is no bound of its own (the
    job's expiry and its key's age bound it).
    """

    base: float
    cap: float
    number: int | None

    @property
    def floor(self) -> float:
        """The shortest wait in seconds: a server that asked for patience never gets the next request at once."""
        return min(self.cap, self.base) / 2

    @property
    def longest(self) -> float:
        """The longest wait in seconds that the number of attempts leaves room for."""
        return self.cap if self.number is None else self.ceiling(max(0, self.number - 2))

    def ceiling(self, attempts_before: int) -> float:
        """The longest wait after that many attempts and one more, in seconds."""
        return min(self.cap, self.base * 2.0 ** min(attempts_before, 32))


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a name, what it fits, what to do, and why.

    id, title       the row's name (for filters and fingerprints) and the heading on the vendor's page
    status …        conditions; an empty one is not checked. ``smtp``: the SMTP code in the text, or its class (4, 5).
                    ``unless``: none of these texts. ``refused``: recipients are listed as failed. ``by_code``: under
                    these statuses the words do not suffice, the provider must also give a code (`states_refusal`)
    route, scope    what happens, and to whom
    wait, backoff   a hold's length (requeue) and the pace of retries (retry); a retry may state a wait too: its least
    costs           whether it uses up one of the job's attempts
    sent            whether the message may have gone out
    why, remedy     for the person who asks, and for the one who can act
    source          the page that the row is taken from
    documented      False for the rows that catch undocumented answers
    alert           a person should know at once
    check_grant     ask the API about the grant before its owner is asked to sign in, or (dead_letter) its jobs end
    escalates       (retry) the hold of the application if calls of several grants in a row meet it
    width, spacing  what the lane keeps to afterwards: jobs at once, seconds between modifications
    """

    id: str
    title: str
    status: tuple[Status, ...]
    route: Route | None  # None: of a success alone
    scope: Scope
    sent: Sent
    why: str
    remedy: str
    source: str
    type: tuple[str, ...] = ()
    text: tuple[Text, ...] = ()
    provider: tuple[str, ...] = ()
    operation: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    fault: tuple[str, ...] = ()
    unless: tuple[Text, ...] = ()
    smtp: tuple[int, ...] = ()
    refused: bool = False
    by_code: tuple[Status, ...] = ()
    wait: Wait | None = None
    backoff: Backoff | None = None
    costs: bool = False
    documented: bool = True
    alert: bool = False
    check_grant: bool = False
    escalates: Wait | None = None
    width: int | None = None
    spacing: float | None = None

    def fits(self, failure: Failure) -> bool:
        """Whether every condition of this row holds for the failure."""
        return (
            (not self.status or any(fits_status(status, failure.status) for status in self.status))
            and (not self.provider or failure.provider in self.provider)
            and (not self.operation or failure.operation in self.operation)
            and (not self.origin or failure.origin in self.origin)
            and (not self.fault or failure.fault in self.fault)
            and (not self.smtp or fits_smtp(self.smtp, failure.smtp))
            and (not self.refused or failure.refused > 0)
            and (not any(fits_status(s, failure.status) for s in self.by_code) or states_refusal(failure))
            and (not (self.type or self.text) or failure.type in self.type or contains(failure.text, self.text))
            and not contains(failure.text, self.unless)
        )


_ENHANCED_CODE = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")

# Microsoft's codes for "not accepted": no other part of an answer is written like them.
REFUSAL_CODES = ("errorexceeded", "errorsubmissionquota", "errormessagesubmissionblocked", "errorquotaexceeded")


def states_refusal(failure: Failure) -> bool:
    """Whether the provider itself says, with a code, that it did not accept the message.

    Words are no proof: in a server error they may tell of an earlier attempt, of a log line, of Nylas's own trouble.
    """
    return failure.origin == "provider" and (failure.smtp is not None or contains(failure.text, REFUSAL_CODES))


def contains(said: str, texts: tuple[Text, ...]) -> bool:
    """Whether any of the texts is in what was said."""
    return any(_has(said, text) if isinstance(text, str) else all(_has(said, part) for part in text) for text in texts)


def _has(said: str, piece: str) -> bool:
    if piece not in said:
        return False
    if not _ENHANCED_CODE.fullmatch(piece):
        return True
    return re.search(rf"(?<![\w./]){re.escape(piece)}(?![\d.]*\d)", said) is not None


def fits_smtp(patterns: tuple[int, ...], code: int | None) -> bool:
    """Whether an SMTP code is one of the patterns, or of a class (4, 5) among them."""
    return code is not None and (code in patterns or code // 100 in patterns)


def fits_status(pattern: Status, status: int | None) -> bool:
    if isinstance(pattern, int) or status is None:
        return pattern == (status if status is not None else "none")
    return len(pattern) == 3 and pattern[1:] == "xx" and 100 <= status <= 999 and status // 100 == int(pattern[0])


class Policy:
    """Rows in order. The first that fits a failure is its rule; the last must fit everything."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self._by_status: dict[int | None, tuple[Row, ...]] = {}

    def rule(self, failure: Failure) -> Row:
        """The first row that fits. Which rows a status can meet is worked out once per status."""
        status = failure.status
        rows = self._by_status.get(status)
        if rows is None:
            rows = tuple(row for row in self.rows if not row.status or any(fits_status(s, status) for s in row.status))
            if status is None or 100 <= status <= 599:  # others are nonsense: a bounded number of entries
                self._by_status[status] = rows
        return next(row for row in rows if row.fits(failure))
