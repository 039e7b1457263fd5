"""The result of one check, and the comparison of two machines' clocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail", "unknown"]

PATIENCE_S = 10.0  # timeout for one answer; a slower server is of no use to a worker

# A clock that is off by 1 s makes logs hard to follow; one that is off by 30 s makes jobs start and expire visibly
# early or late, and uses up part of the 15 minutes of reserve in the age of an Idempotency-Key.
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class CheckItem:
    """The result of one check: what was found (``says``) and, unless it is ok, what to do (``remedy``)."""

    name: str
    state: State
    says: str
    remedy: str = ""


def clock_item(name: str, theirs: float, before: float, after: float) -> CheckItem:
    """Compare their clock (Unix time, s) with ours, read just before and just after the request.

    The time of the round trip is not counted as a difference.
    """
    ahead = max(0.0, theirs - after) - max(0.0, before - theirs)
    if abs(ahead) <= CLOCK_WARN_S:
        return CheckItem(name, "ok", "agrees with this machine's clock")
    says = f"is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's clock"
    return CheckItem(name, "fail" if abs(ahead) > CLOCK_FAIL_S else "warn", says, "run a time service (NTP) on both")
