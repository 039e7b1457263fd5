"""How far a batch has come, and when it may be done. Pure: rows and times are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sendq.clock import SECOND, Micros
from sendq.rules.states import FINAL

# The rate looks back this far: long enough to even out turns, short enough to show that something has stopped.
RATE_WINDOW: Micros = 60 * SECOND


class Walked(Protocol):
    """The fields of a batch that are read here."""

    @property
    def walk(self) -> str | None: ...
    @property
    def listings(self) -> int: ...
    @property
    def cancel_at(self) -> Micros | None: ...


def jobs_ended(sums: Mapping[str, int]) -> int:
    """Jobs that have ended, without listings."""
    return sum(sums.get(state.value, 0) for state in FINAL)


def listings_ended(sums: Mapping[str, int]) -> int:
    """Listings that have ended: the last page was listed, or a page was given up, cancelled or expired."""
    return sum(sums.get(f"list:{state.value}", 0) for state in FINAL)


def walk_is_complete(batch: Walked, sums: Mapping[str, int]) -> bool:
    """Whether the messages that a walk has found may be changed now.

    All pages of a query must have been listed, because changes would shift the others. Threads do not depend on one
    another: one that cannot be listed does not hold up the rest.
    """
    if batch.cancel_at is not None:
        return False
    return (sums.get("list:sent", 0) if batch.walk == "query" else listings_ended(sums)) == batch.listings


def ended(batch: Walked, sums: Mapping[str, int], *, total: int | None) -> bool:
    """Whether a batch is over, unless an operator acts: its last job and its last listing have ended."""
    if listings_ended(sums) < batch.listings:
        return False
    if total is None:  # the walk stopped; what it had found is not changed
        return not walk_is_complete(batch, sums)
    return jobs_ended(sums) == total


def walk_state(batch: Walked, sums: Mapping[str, int], *, total: int | None, making: bool) -> str | None:
    """``listing``, ``making`` (jobs of what was found), ``done`` or ``stopped``; None: there is no walk."""
    if batch.walk is None:
        return None
    if listings_ended(sums) < batch.listings:
        return "listing"
    if total is None and not walk_is_complete(batch, sums):
        return "stopped"
    return "making" if making or total is None else "done"


def rate(ended_lately: int, *, over: Micros) -> float:
    """Jobs a second, of those that ended in the last minute; ``over``: the time since the first of them ended.

    Not over the whole minute: after a walk or a hold, the first seconds show the new rate.
    """
    return max(0, ended_lately) / (max(SECOND, over) / SECOND)


def eta(waiting: int, *, rate: float, paced_at: Micros, held_until: Micros, closed: bool, now: Micros) -> Micros | None:
    """When the last waiting job should be done; None (unknown) while the lane is closed.

    ``paced_at``: when the lane's pace lets the last of the waiting jobs start; it cannot be faster. Before any job has
    ended, nothing else is known.
    """
    if closed:
        return None
    if not waiting:
        return now
    by_rate = round(waiting / rate * SECOND) if rate else 0
    return max(now, held_until) + max(by_rate, paced_at - now)
