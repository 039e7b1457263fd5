"""Suppressions: who gets no more mail, by application and category; entries by their digests; and one recipient's."""

from __future__ import annotations

from collections.abc import Sequence

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import APPLICATION, ROWS, Filter, arguments, chosen_of, listed
from sendq.errors import Unreadable
from sendq.rules.suppression import Reason
from sendq.scope import DEFAULT_APPLICATION
from sendq.views.suppressions import COUNT_MOST, Suppression

CATEGORY = Filter("category", "Category")
ALL_MAIL = Filter("all_mail", "For", ("yes",), {"yes": "all mail"})
REASON = Filter("reason", "Reason", tuple(Reason))
FILTERS = (APPLICATION, CATEGORY, ALL_MAIL, REASON)

# Entries of one recipient that are shown: one in each application and category.
ENTRIES = 200

NO_KEY = (
    "This ledger is encrypted, and the console does not have its key: it finds recipients by their digests alone. "
    "Where workers run, sendq suppressions list --recipient ADDRESS looks an address up."
)


def suppressions(desk: Desk, asked: Asked) -> View:
    """The counts, and the list of entries, the latest first."""
    chosen = chosen_of(asked, FILTERS)
    given = arguments(asked, chosen)
    all_mail = given.pop("all_mail", None) is not None
    page = desk.operators.suppressions(**given, all_mail=all_mail, limit=ROWS, cursor=asked.get("after"))
    # Counts read many entries, so they are not updated with the list.
    counts = () if asked.update or chosen or asked.get("after") else desk.operators.suppression_counts()
    return View(
        "suppressions.html",
        {
            "live": asked.get("after") is None,
            "list": listed(asked, FILTERS, chosen, page.items, page.next),
            "counts": counts,
            "total": sum(one.number for one in counts),
            "total_most": COUNT_MOST,
        },
    )


def recipient(desk: Desk, asked: Asked, given: str, application: str | None) -> View:
    """Whether and why one recipient is suppressed. Raises `InvalidArgument` if this is neither address nor digest."""
    digest = trouble = None
    entries: Sequence[Suppression] = ()
    try:
        entries = desk.operators.suppressions(
            application=application, recipient=given, vault=desk.vault, limit=ENTRIES
        ).items
        digest = desk.operators.digest_of_recipient(
            given, application=application or DEFAULT_APPLICATION, vault=desk.vault
        )
    except Unreadable:
        trouble = NO_KEY
    return View(
        "recipient.html",
        {
            "live": False,
            "recipient": given,
            "application": application,
            "entries": entries,
            "trouble": trouble,
            # What the act would add: a digest belongs to one application.
            "adds": {"recipient": digest, "application": application or DEFAULT_APPLICATION},
            "for_all_mail": [one for one in entries if one.category is None],
        },
    )
