"""What must hold directly before a call. Pure; checked at the claim, and again for each job before its request."""

from __future__ import annotations

from typing import Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.states import Event

# A key is valid for one hour from its first request; after that it sends again ("Idempotent send", Nylas). The margin
# allows for clocks that differ and a call that takes its whole read timeout.
KEY_MAX_AGE: Micros = 45 * 60 * SECOND

# Clocks of synchronised machines differ by less, and the quarter of an hour between `KEY_MAX_AGE` and the key's end has
# room for it beside a request's longest time.
CLOCK_TOLERANCE: Micros = 5 * 60 * SECOND

# What this version can carry out. Any other operation was enqueued by a newer version and is left to its workers.
OPERATIONS = frozenset({"send", "modify", "delete", "list", "read", "restore"})
FORMS = frozenset({None, "json", "json_text", "multipart", "mime"})

# These operations have a body of their own; the jobs of all others share their batch's.
OWN_BODY = ("send", "list")


def repeatable(operation: str) -> bool:
    """Whether doing it twice has the same effect as once. Unknown operations are assumed unsafe to repeat."""
    return operation in OPERATIONS and operation != "send"


def must_be_repeated(operation: str, doubt_at: Micros | None) -> bool:
    """Whether a job that waits may have been sent, and waits for its repeat: while the API remembers its key, a repeat
    is safe and shows what became of the first; later it could be a second copy.
    """
    return doubt_at is not None and not repeatable(operation)


# After this many workers died, for whatever cause, while a job was begun, it runs alone in a separate process. A death
# there is counted on top of these, and only that makes it poison.
DEATHS_TOLERATED = 2


def trusted_age(key_max_age: Micros, *, now: Micros, highest: Micros) -> Micros:
    """Up to which age keys are trusted now; none is while the clock is behind the highest time seen.

    Whether this clock was set back or another one was ahead: the ages of keys are unknown then, and a key that looks
    young may have expired.
    """
    return 0 if now < highest - CLOCK_TOLERANCE else key_max_age


class Startable(Protocol):
    """What is known about a job that is about to begin."""

    @property
    def operation(self) -> str: ...
    @property
    def expires_at(self) -> Micros | None: ...
    @property
    def key_at(self) -> Micros | None: ...
    @property
    def doubt_at(self) -> Micros | None: ...
    @property
    def deaths(self) -> int: ...


def objection(job: Startable, *, now: Micros, key_max_age: Micros = KEY_MAX_AGE) -> Event | None:
    """What happens to the job instead of the call; None: the call may be made.

    A send whose last outcome is unknown is repeated under the same key only while the API still recognises repeats by
    that key; a first use that lies in the clock's future proves nothing. A job past its expiry expires, but only if it
    certainly never went out. Poison is not tried again.
    """
    if job.deaths > DEATHS_TOLERATED:
        return Event.GIVE_UP if repeatable(job.operation) or job.doubt_at is None else Event.DOUBT
    if not repeatable(job.operation) and job.doubt_at is not None:
        if job.key_at is None or not -CLOCK_TOLERANCE <= now - job.key_at < key_max_age:
            return Event.DOUBT
        if job.expires_at is not None and now >= job.expires_at:
            return Event.DOUBT
    elif job.expires_at is not None and now >= job.expires_at:
        return Event.EXPIRE
    return None
