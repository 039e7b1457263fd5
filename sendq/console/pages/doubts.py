"""Doubts: jobs that may have been sent, what the searches of their mailboxes found, and when the next one is."""

from __future__ import annotations

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import (
    APPLICATION,
    BATCH,
    GRANT,
    PROVIDER,
    ROWS,
    RULE,
    SINCE,
    TAG,
    arguments,
    chosen_of,
    listed,
)

FILTERS = (RULE, PROVIDER, APPLICATION, GRANT, BATCH, TAG, SINCE)


def doubts(desk: Desk, asked: Asked) -> View:
    """The list, the most recently enqueued first."""
    chosen = chosen_of(asked, FILTERS)
    page = desk.operators.doubts(**arguments(asked, chosen), limit=ROWS, cursor=asked.get("after"))
    return View(
        "doubts.html",
        {
            "live": asked.get("after") is None,
            "list": listed(asked, FILTERS, chosen, page.items, page.next),
            "acts_on": chosen or None,
        },
    )
