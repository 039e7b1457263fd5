"""What must hold directly before a call. Pure; asked at the claim and again, job by job, before the wire."""

from __future__ import annotations

from typing import Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.states import Event

# A key is valid for one hour from its first request and then sends anew ("Idempotent send", Nylas). With this much
# less, clocks may differ and a call may take its whole read timeout.
KEY_MAX_AGE: Micros = 45 * 60 * SECOND

# Clocks of machines that are kept in step differ by less, and the quarter of an hour between `KEY_MAX_AGE` and the
# key's end has room for it beside a request's longest time.
CLOCK_TOLERANCE: Micros = 5 * 60 * SECOND

# What this version can carry out. Any other was enqueued by a newer one, and is left to its workers.
OPERATIONS = frozenset({"send", "modify", "delete", "list"})
FORMS = frozenset({None, "json", "multipart", "mime"})


def repeatable(operation: str) -> bool:
    """Whether doing it twice is as good as once. Of what this version does not know, the worst is believed."""
    return operation in OPERATIONS and operation != "send"


# So many workers may die while a job is begun, by whatever cause; from then on it runs alone in a process of its own. A
# death there is counted on top of these, and only that makes it poison.
DEATHS_TOLERATED = 2


def trusted_age(key_max_age: Micros, *, now: Micros, highest: Micros) -> Micros:
    """Up to which age keys are trusted now: to none at all while the clock runs behind the highest time seen.

    Whoever set it back, or whoever was ahead: ages of keys cannot be told then, and one that looks young may be over.
    """
    return 0 if now < highest - CLOCK_TOLERANCE else key_max_age


class Startable(Protocol):
    """What is known of a job that is about to begin."""

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
    """What happens to the job instead of the call; None: nothing speaks against it.

    A send whose last outcome is unknown goes again under the same key only while that key still tells repeats from
    new mail; a first use that lies ahead of the clock tells nothing. A job past its time expires, but only if it surely
    never went out. Poison is not tried again.
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
