"""The exceptions that applications see.

    SendqError                    base class
    ├── InvalidJob                invalid input at enqueue: every problem with its field; nothing was stored
    │   └── SuppressedRecipients  a recipient is on the suppression list
    ├── InvalidArgument           invalid input to a method of `Operators`: every problem; nothing was changed
    ├── LaneFull                  the grant's queue is full; says when it will have room
    ├── KeyConflict               the key belongs to a job with different content
    ├── NotFound                  no such job, batch or key
    │   └── Pruned                it existed and was deleted after its retention period; its key is remembered
    ├── NotWaiting                the job cannot be changed any more, or its message was replaced; says its state
    ├── SuppressionListFailed     the application's own suppression list failed or did not answer; nothing was stored
    ├── Retryable                 a deadlock or serialization failure: roll back, run the transaction again
    ├── Unreadable                stored content is encrypted with a key that is not available
    │   ├── Altered               it is not what was stored: something other than sendq changed the ledger
    │   └── NotEncrypted          it is not encrypted, though there are keys
    ├── SchemaMismatch            the ledger's schema is older or newer than this code
    └── LedgerUnavailable         the ledger cannot be reached or used; the message says why

A mistake in the call itself (a sync session passed to the async queue) is a ``TypeError``: the program is wrong, not
its data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


class SendqError(Exception):
    """Base class of all exceptions that sendq raises for applications to handle.

    All of them can be pickled, so that they pass from one process to another.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is rebuilt from its message alone, which is not what most of these are made from.
        return _rebuilt, (type(self), self.args, dict(self.__dict__))


def _rebuilt(kind: type[SendqError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SendqError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with one field of a call.

    ``field`` is a path (``to[2].email``, ``messages[7].subject``), ``reason`` says what is wrong with it and
    ``remedy`` what to do. Neither repeats the value: it may be an address or a subject.
    """

    field: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}; {self.remedy}"

    def under(self, prefix: str) -> Problem:
        """The same problem with ``prefix`` in front of its field."""
        joint = "" if self.field.startswith("[") else "."
        return Problem(f"{prefix}{joint}{self.field}" if self.field else prefix, self.reason, self.remedy)


class InvalidJob(SendqError, ValueError):
    """The input is invalid. Every problem is listed; nothing was stored."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"not enqueued, {head}: " + " | ".join(str(problem) for problem in self.problems))


class SuppressedRecipients(InvalidJob):
    """Recipients are on the suppression list, or on the application's own; nothing was stored.

    The fields of its problems name their positions: ``to[0]``, ``cc[2]``, ``[7].bcc[0]``.
    """


class SuppressionListFailed(SendqError):
    """The application's own suppression list raised an error, did not answer in time, or answered nonsense.

    Nothing was stored; try again. The list's exception is the ``__cause__``.
    """


class InvalidArgument(SendqError, ValueError):
    """The input to a method of `Operators` is invalid. Every problem is listed; nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(" | ".join(str(problem) for problem in self.problems))


class LaneFull(SendqError):
    """The grant already has as many waiting jobs as ``lane_cap`` allows; nothing was stored.

    ``eta`` is when a job accepted now would be sent (None: not before its owner signs in again), ``waiting`` the number
    of waiting jobs.
    """

    def __init__(self, grant_id: str, *, waiting: int, cap: int, eta: datetime | None) -> None:
        self.grant_id, self.waiting, self.cap, self.eta = grant_id, waiting, cap, eta
        when = "not before its owner signs in again" if eta is None else f"about {eta.isoformat(timespec='seconds')}"
        super().__init__(
            f"grant_id: {grant_id} already has {waiting} waiting jobs, and {cap} are allowed; one more would be sent "
            f"{when}; enqueue it later, or raise lane_cap"
        )


class KeyConflict(SendqError):
    """The key was already used for a job with different content."""

    def __init__(self, key: str, job_id: str) -> None:
        self.key, self.job_id = key, job_id
        # The key is not shown: it may contain an address.
        super().__init__(
            f"key: it already belongs to {job_id}, which has different content; "
            "use a new key for new content, or get the existing job with job(key=…)"
        )


class NotFound(SendqError, LookupError):
    """There is no such job, batch or key in this ledger."""


class Pruned(NotFound):
    """The key belongs to a job or batch that ended and was deleted after its retention period.

    ``id`` is its id. The key is still remembered: a call with it stores nothing new.
    """

    def __init__(self, what: str, identity: str, enqueued_at: str) -> None:
        self.id = identity
        super().__init__(
            f"the {what} that was enqueued with this key ({identity}, {enqueued_at}) has ended and was deleted after "
            "its retention period; its outcome is no longer known"
        )


class NotWaiting(SendqError):
    """The job or batch cannot be changed as asked for: its call is being made, its outcome is unknown, it has ended, or
    the job has another content version than the one that was named.

    Nothing was changed. ``id`` is the job's or batch's id, ``state`` the state that it is in. ``content_version``: the
    job's, if it is another one than was named; otherwise None.
    """

    def __init__(
        self, what: str, identity: str, state: str, reason: str, *, content_version: int | None = None
    ) -> None:
        self.id, self.state, self.content_version = identity, state, content_version
        super().__init__(f"the {what} {identity} is {state.replace('_', ' ')}: {reason}; nothing was changed")


class Retryable(SendqError):
    """The database aborted the transaction (deadlock, serialization failure); nothing was stored. Run it again."""


class Unreadable(SendqError):
    """Stored content is encrypted, and none of the available keys decrypts it; it is left unchanged.

    ``key_name`` is the name of the key that encrypted it; ``missing``: no key of that name is configured.
    """

    def __init__(self, key_name: str, *, missing: bool) -> None:
        self.key_name, self.missing = key_name, missing
        super().__init__(
            f"encryption key {key_name!r}: stored content is encrypted with it, but it is not configured; add it, "
            "after the first key"
            if missing
            else f"encryption key {key_name!r}: the configured key of that name does not decrypt the stored content; "
            "configure the right one, or add it under another name"
        )


class Altered(Unreadable):
    """Stored content, or something that it is bound to, is not what sendq stored."""

    def __init__(self, key_name: str) -> None:
        super().__init__(key_name, missing=False)
        self.args = (
            "stored content, or a field that it is bound to, is not what was stored: something other than sendq "
            "changed the ledger, or it is damaged; restore the row from a backup, or enqueue it again",
        )


class NotEncrypted(Unreadable):
    """Stored content is not encrypted, though there are encryption keys."""

    def __init__(self) -> None:
        super().__init__("", missing=False)
        self.args = (
            "stored content is not encrypted, though there are encryption keys; if it is from before there were, set "
            "SENDQ_ACCEPT_UNENCRYPTED=true and run: sendq rekey",
        )


class SchemaMismatch(SendqError):
    """The ledger's schema does not match this version of the code."""


class LedgerUnavailable(SendqError):
    """The ledger cannot be reached or used; the message says why, and what to do."""


class NoRight(LedgerUnavailable):
    """The database role has no right to do this in the ledger; the message says what it needs."""
