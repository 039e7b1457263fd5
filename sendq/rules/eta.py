"""When a job is expected to start, by its lane's pace. Pure.

An estimate, not a promise: it knows the pace, the holds and the jobs ahead, and assumes that calls take as long as they
usually do. It cannot know of future throttling.
"""

from __future__ import annotations

from sendq.clock import SECOND, Micros
from sendq.rules.pace import SENDS, Paced, pacer_of

# How long calls usually take ("Send email", Nylas: about two seconds on average; the others are shorter).
SEND_TIME: Micros = 2 * SECOND
OTHER_TIME: Micros = SECOND // 2


def predicted(lane: Paced | None, call: str, *, ahead: int, now: Micros, not_before: Micros, width: int = 1) -> Micros:
    """About when the call behind ``ahead`` others starts; ``not_before``: its due time or the end of a hold, if later.

    ``lane`` None: there has been no job for that grant yet. ``width``: calls at once that the lane makes.
    """
    at = max(now, not_before)
    by_width = at + ahead // max(1, width) * (SEND_TIME if call in SENDS else OTHER_TIME)
    if lane is None:
        return by_width
    return max(by_width, pacer_of(lane, now=at).start_of(ahead + 1, call, at))
