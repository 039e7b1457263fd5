"""Outcomes: what is still to be delivered to applications, and what their receivers did not accept."""

from __future__ import annotations

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import APPLICATION, GRANT, ROWS, SINCE, Filter, arguments, chosen_of, listed
from sendq.operators.kinds import OUTCOME_KINDS

STATE = Filter("state", "State", ("waiting", "given_up", "delivered"))
KIND = Filter("kind", "Outcome", OUTCOME_KINDS)
RECEIVER = Filter("receiver", "Receiver")
JOB = Filter("job", "Job")
FILTERS = (STATE, KIND, RECEIVER, APPLICATION, GRANT, JOB, SINCE)


def outcomes(desk: Desk, asked: Asked) -> View:
    """The list, the latest first; without a filter, those that are not delivered yet."""
    chosen = chosen_of(asked, FILTERS)
    page = desk.operators.deliveries(**arguments(asked, chosen), limit=ROWS, cursor=asked.get("after"))
    return View(
        "outcomes.html",
        {"live": asked.get("after") is None, "list": listed(asked, FILTERS, chosen, page.items, page.next)},
    )
