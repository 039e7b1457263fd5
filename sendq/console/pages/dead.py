"""Dead letters: how many each rule gave up and what to do about it, and the list with the API's last answers."""

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


def dead(desk: Desk, asked: Asked) -> View:
    """Both. The list begins once a rule or another filter is chosen."""
    chosen = chosen_of(asked, FILTERS)
    given = arguments(asked, chosen)
    page = desk.operators.dead_letters(**given, limit=ROWS, cursor=asked.get("after"))
    counts = desk.operators.dead_letter_counts(**given)
    return View(
        "dead.html",
        {
            "live": asked.get("after") is None,
            "list": listed(asked, FILTERS, chosen, page.items, page.next),
            "counts": counts,
            "total": sum(one.number for one in counts),
            "acts_on": chosen,
        },
    )
