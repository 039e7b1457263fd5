"""What a notification about a grant does to its lane. Pure.

Two clocks are compared here. A notification has the time of what happened by the clock of Nylas; a lane has the time
when we closed or opened it by ours, which is later, because a notification takes seconds to minutes. So:

    expired, before the lane was last opened            late, its owner has signed in since: nothing
    expired, within `SKEW` after it, or without a time  either may have come first: close, and ask the API at once
    expired, later, or the lane was never opened        close; the owner must sign in
    signed in, no more than `SKEW` before the closing   open: at worst one call is refused, which closes it again
    signed in, earlier, or changed in some other way    stay closed, and ask the API at once
    signed in, while the lane is open                   remember it, so that an older "expired" closes nothing
    deleted                                             ask the API at once, and begin no job until it has answered

A lane that no notification closes is closed by the first call that is refused. No notification ends a job: a leaked
secret must not be enough to empty a queue. Only the answer of the API that it does not know the grant does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import Lane
from sendq.rules.rule_ids import GRANT_DELETED

# By how much the clocks of Nylas and ours may differ, the rounding of its times to seconds included. A clock that is
# off by more than this breaks TLS and idempotency keys first.
SKEW: Micros = 5 * 60 * SECOND


class Kind(Enum):
    """What a notification says about a grant."""

    EXPIRED = auto()  # its owner must sign in again
    SIGNED_IN = auto()  # its owner has signed in
    CHANGED = auto()  # something about it changed, perhaps its owner signed in
    DELETED = auto()  # it no longer exists


class Change(Enum):
    """What a notification changes."""

    NONE = auto()
    CLOSE = auto()
    SUSPECT = auto()  # close, and ask the API about the grant at once
    SUSPECT_DELETED = auto()  # likewise, because it is said to be deleted
    REOPEN = auto()
    SIGNED_IN = auto()  # remember when: nothing that failed or expired before then closes the lane any more
    CHECK = auto()  # ask the API about the grant soon


@dataclass(frozen=True, slots=True)
class Effect:
    """What to do, with a sentence that explains it. ``at`` is the time of a sign-in, by our clock."""

    change: Change
    says: str
    at: Micros | None = None


def effect_of(kind: Kind, at: Micros | None, lane: Lane, *, now: Micros) -> Effect:
    """What a notification does to the lane of its grant. ``at`` is its time by the clock of Nylas, if it has one."""
    match kind:
        case Kind.EXPIRED:
            return _expired(lane, at)
        case Kind.SIGNED_IN:
            return _signed_in(lane, at, now=now)
        case Kind.CHANGED:
            return _check(lane)
        case Kind.DELETED:
            return _deleted(lane)


def _expired(lane: Lane, at: Micros | None) -> Effect:
    opened = lane.opened_at
    if opened is not None and at is not None and at < opened:
        return Effect(Change.NONE, "nothing to do: the grant's owner has signed in since")
    if lane.closed_at is not None and not lane.suspected:
        return Effect(Change.NONE, "nothing to do: the lane is closed already")
    if opened is None or (at is not None and at >= opened + SKEW):
        return Effect(Change.CLOSE, "done: the lane is closed until the grant's owner signs in")
    return Effect(Change.SUSPECT, "done: the lane is closed, and the API will be asked about the grant")


def _signed_in(lane: Lane, at: Micros | None, *, now: Micros) -> Effect:
    if lane.closed_at is None:
        signed_in_at = now if at is None else min(at, now)
        return Effect(Change.SIGNED_IN, "nothing to do: the lane is open already", signed_in_at)
    if lane.gone and lane.closed_rule == GRANT_DELETED:
        return Effect(Change.NONE, "nothing to do: the grant was deleted")
    if at is not None and at < lane.closed_at - SKEW:
        return _check(lane)
    return Effect(Change.REOPEN, "done: the lane is open again")


def _deleted(lane: Lane) -> Effect:
    if lane.closed_at is not None and not lane.suspected:
        return _check(lane)
    says = "done: no job begins until the API has answered whether the grant still exists"
    return Effect(Change.SUSPECT_DELETED, says)


def _check(lane: Lane) -> Effect:
    if lane.closed_at is None or lane.gone:
        return Effect(Change.NONE, "nothing to do: the lane is not waiting for the grant's owner")
    return Effect(Change.CHECK, "done: the API will be asked about the grant")
