"""The default expiry of sends: `EXPIRY` after they may first begin, in their windows. Pure.

At enqueue only a job's own window is known. That of its grant is counted once the job waits for it.
"""

from __future__ import annotations

from typing import Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.windows import first_opening, readable_window

# Old mail is worse than none: a send that could not be carried out within three days of its due time expires. One that
# expired before an operator retries or resends it gets as much more time.
EXPIRY: Micros = 72 * 3600 * SECOND


class Expiring(Protocol):
    """The columns of a job that are read here."""

    @property
    def operation(self) -> str: ...
    @property
    def due_at(self) -> Micros: ...
    @property
    def expires_at(self) -> Micros | None: ...
    @property
    def time_window(self) -> str | None: ...


def first_chance(window: str | None, at: Micros) -> Micros:
    """When a job that is due then may first begin; ``window`` is a stored one. One that cannot be read, or never
    opens, does not count.
    """
    readable = None if window is None else readable_window(window)
    opens_at = None if readable is None else first_opening(readable, at)
    return at if opens_at is None else opens_at


def is_default(job: Expiring, *openings: Micros) -> bool:
    """Whether the expiry of a job is the default one: exactly `EXPIRY` after its due time or one of ``openings``.

    The ledger does not say who chose an expiry.
    """
    expires_at = job.expires_at
    return job.operation == "send" and expires_at is not None and expires_at - EXPIRY in (job.due_at, *openings)


def expiry_in(window: str | None, job: Expiring) -> Micros | None:
    """The expiry of a job whose grant has this window.

    It is later than the stored one if that is the default, counted from a due time at which the window is closed.
    """
    if window is None or job.time_window is not None or not is_default(job):
        return job.expires_at
    return first_chance(window, job.due_at) + EXPIRY
