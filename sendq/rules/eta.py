"""When a job will about go, by its lane's own pace. Pure.

A prediction, not a promise: it knows the pace, the holds and who is ahead, and takes calls to last as long as they
usually do. What will be throttled tomorrow it does not know.
"""

from __future__ import annotations

from sendq.clock import SECOND, Micros
from sendq.rules.pace import SENDS, Paced, pacer_of

# How long calls take when nobody says ("Send email", Nylas: about two seconds on average; the others are shorter).
SEND_TIME: Micros = 2 * SECOND
OTHER_TIME: Micros = SECOND // 2


def predicted(lane: Paced | None, call: str, *, ahead: int, now: Micros, not_before: Micros, width: int = 1) -> Micros:
    """When the call behind ``ahead`` others starts, about; ``not_before``: its due time, and the end of any hold.

    ``lane`` None: there has been no job for that grant yet. ``width``: calls at once that the lane makes.
    """
    at = max(now, not_before)
    by_width = at + ahead // max(1, width) * (SEND_TIME if call in SENDS else OTHER_TIME)
    if lane is None:
        return by_width
    return max(by_width, pacer_of(lane, now=at).start_of(ahead + 1, call, at))
