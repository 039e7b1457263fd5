"""Now: what comes in and goes out, what waits, what holds it, and whether the parts of the system work."""

from __future__ import annotations

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.rules.states import State
from sendq.views.overview import COUNT_MOST
from sendq.views.status import APPROVALS_MOST

# Clocks that are set differ by less, in seconds.
CLOCK_S = 10.0


def now(desk: Desk, asked: Asked) -> View:
    """The first page."""
    seen = desk.operators.overview()
    oldest = max(seen.oldest_s.values(), default=0.0)
    return View(
        "now.html",
        {
            "live": True,
            "seen": seen,
            "approvals_most": APPROVALS_MOST,
            "jobs_most": COUNT_MOST,
            "held": desk.operators.held(),
            "oldest_s": oldest,
            "states": (State.QUEUED, State.SENDING, State.IN_DOUBT, State.DEAD),
            "leads": any(worker.leads for worker in seen.workers),
            "clock_is_behind": seen.clock_behind_s >= CLOCK_S,
        },
    )
