"""Batches: the list, and one with its progress, its walk and its first errors."""

from __future__ import annotations

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import APPLICATION, GRANT, PROVIDER, ROWS, SINCE, Filter, arguments, chosen_of, listed

STATE = Filter("state", "State", ("running", "finished"))
FILTERS = (STATE, PROVIDER, APPLICATION, GRANT, SINCE)

EVENTS = 20


def batches(desk: Desk, asked: Asked) -> View:
    """The list, the most recently enqueued first."""
    chosen = chosen_of(asked, FILTERS)
    given = arguments(asked, chosen)
    state = given.pop("state", None)
    finished = None if state is None else state == "finished"
    page = desk.operators.batches(**given, finished=finished, limit=ROWS, cursor=asked.get("after"))
    return View(
        "batches.html",
        {"live": asked.get("after") is None, "list": listed(asked, FILTERS, chosen, page.items, page.next)},
    )


def batch(desk: Desk, asked: Asked) -> View:
    """One batch."""
    seen = desk.operators.batch(asked.values["batch"])
    return View(
        "batch.html",
        {
            "live": True,
            "batch": seen,
            "deliveries": desk.operators.deliveries(batch_id=seen.id, limit=EVENTS).items,
        },
    )
