"""What a check has to say about one thing, and how the clocks of two machines are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail", "unknown"]

PATIENCE_S = 10.0  # for one answer; whoever needs longer is no base for a worker

# A clock that is off by this much makes times in the log hard to follow; by that much, jobs start and expire visibly
# early or late, and the age of an Idempotency-Key is wrong by a part of the 15 minutes kept in reserve.
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class CheckItem:
    """One thing that was looked at: what is so (``says``) and, unless all is well, what to do (``remedy``)."""

    name: str
    state: State
    says: str
    remedy: str = ""


def clock_item(name: str, theirs: float, before: float, after: float) -> CheckItem:
    """Their clock (Unix time, s) against ours, read just before and just after the question.

    What the way there and back may have taken is not held against them.
    """
    ahead = max(0.0, theirs - after) - max(0.0, before - theirs)
    if abs(ahead) <= CLOCK_WARN_S:
        return CheckItem(name, "ok", "agrees with this machine's")
    says = f"is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return CheckItem(name, "fail" if abs(ahead) > CLOCK_FAIL_S else "warn", says, "run a time service (NTP) on both")
