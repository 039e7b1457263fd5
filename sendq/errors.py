"""The errors that an application meets.

    SendqError                    everything below
    ├── InvalidJob                bad input at enqueue: every problem with its field; nothing was stored
    ├── InvalidAct                bad input to an act of `Operators`: every problem; nothing was changed
    ├── LaneFull                  the grant has as many waiting jobs as may wait; says when it has room
    ├── KeyConflict               the key belongs to a job with other content
    ├── NotFound                  no such job, batch or key
    │   └── Pruned                there was one; its key is remembered
    ├── Retryable                 a deadlock or serialization failure: roll back, run the transaction again
    ├── Unreadable                what is stored is sealed with an encryption key that is not at hand
    ├── SchemaMismatch            the ledger's schema is older or newer than this code
    └── LedgerUnavailable         the ledger cannot be reached

A mistake in the call itself (a sync session handed to the async queue) is a ``TypeError``: the program is wrong, not
its data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


class SendqError(Exception):
    """Anything that sendq reports to the application that uses it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field of a call.

    ``field`` is a path (``to[2].email``, ``messages[7].subject``), ``reason`` says what is wrong with it and
    ``remedy`` what to do. Neither repeats the value: it may be an address or a subject.
    """

    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}; {self.remedy}"

    def under(self, prefix: str) -> Problem:
        """The same problem, seen from further out."""
        joint = "" if self.field.startswith("[") else "."
        return Problem(f"{prefix}{joint}{self.field}" if self.field else prefix, self.reason, self.remedy)


class InvalidJob(SendqError, ValueError):
    """The call cannot become a job. Every problem is listed; nothing was stored."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"not enqueued, {head}: " + " | ".join(str(problem) for problem in self.problems))


class InvalidAct(SendqError, ValueError):
    """An act of `Operators` cannot be carried out as it was asked for. Every problem is listed; nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("nothing was changed: " + " | ".join(str(problem) for problem in self.problems))


class LaneFull(SendqError):
    """As many jobs wait for this grant as the queue lets wait for one; nothing was stored.

    ``eta`` is when a job accepted now would go (None: not before its owner signs in again), ``waiting`` how many wait.
    """

    def __init__(self, grant_id: str, *, waiting: int, cap: int, eta: datetime | None) -> None:
        self.grant_id, self.waiting, self.cap, self.eta = grant_id, waiting, cap, eta
        when = "not before its owner signs in again" if eta is None else f"about {eta.isoformat(timespec='seconds')}"
        super().__init__(
            f"grant_id: {waiting} jobs wait for {grant_id} already, and {cap} may; one more would go {when}; "
            "enqueue it later, or raise lane_cap"
        )


class KeyConflict(SendqError):
    """The key was used before, for a job with other content."""

    def __init__(self, key: str, job_id: str) -> None:
        self.key, self.job_id = key, job_id
        # The key is not shown: it may have been made from an address.
        super().__init__(
            f"key: it already belongs to {job_id}, which has other content; "
            "use a new key for new content, or look the first one up with job(key=…)"
        )


class NotFound(SendqError, LookupError):
    """There is no such job, batch or key in this ledger."""


class Pruned(NotFound):
    """The key named a job or batch whose retention is over: it has ended, and only its key is remembered.

    ``id`` is its id. A call with this key still stores nothing new.
    """

    def __init__(self, what: str, identity: str, enqueued_at: str) -> None:
        self.id = identity
        super().__init__(
            f"the {what} that was enqueued with this key ({identity}, {enqueued_at}) has ended and was pruned after "
            "its retention; what became of it is not known any more"
        )


class Retryable(SendqError):
    """The database broke off the transaction (deadlock, serialization failure): nothing was stored, run it again."""


class Unreadable(SendqError):
    """Something in the ledger is sealed, and none of the encryption keys at hand opens it; it is kept as it is.

    ``key_name`` is the name of the key that sealed it, ``missing`` whether there is no key of that name here.
    """

    def __init__(self, key_name: str, *, missing: bool) -> None:
        self.key_name, self.missing = key_name, missing
        super().__init__(
            f"encryption key {key_name!r}: it sealed what is stored, and is not given here; add it, after the first"
            if missing
            else f"encryption key {key_name!r}: the one given here does not open what one of that name sealed; "
            "give the right one, or add that under another name"
        )


class SchemaMismatch(SendqError):
    """The ledger's schema is not the one this code was written for."""


class LedgerUnavailable(SendqError):
    """The ledger cannot be reached."""
