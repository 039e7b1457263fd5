"""Journal: what happened to grants and holds, and who did what, and why."""

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
    Filter,
    arguments,
    chosen_of,
    listed,
)
from sendq.operators.kinds import EVENT_KINDS

KIND = Filter("kind", "Event", EVENT_KINDS)
BY = Filter("by", "By")
JOB = Filter("job", "Job")
FILTERS = (KIND, BY, RULE, PROVIDER, APPLICATION, GRANT, JOB, BATCH, SINCE)


def journal(desk: Desk, asked: Asked) -> View:
    """The list, the latest first."""
    chosen = chosen_of(asked, FILTERS)
    page = desk.operators.events(**arguments(asked, chosen), limit=ROWS, cursor=asked.get("after"))
    return View(
        "journal.html",
        {"live": asked.get("after") is None, "list": listed(asked, FILTERS, chosen, page.items, page.next)},
    )
