"""Accounts: the grants, what holds each and until when; and one grant with its history and its pace."""

from __future__ import annotations

from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import APPLICATION, PROVIDER, ROWS, RULE, SINCE, Filter, arguments, chosen_of, listed
from sendq.views import GrantView

STATE = Filter("state", "State", ("held", "closed", "open"), {"closed": "closed: owner must sign in"})
TEXT = Filter("text", "Grant contains")
FILTERS = (STATE, RULE, PROVIDER, APPLICATION, TEXT, SINCE)

JOBS, EVENTS = 20, 30


def accounts(desk: Desk, asked: Asked) -> View:
    """The list. Those that are held or closed come first."""
    chosen = chosen_of(asked, FILTERS)
    page = desk.operators.grants(**arguments(asked, chosen), limit=ROWS, cursor=asked.get("after"))
    return View(
        "accounts.html",
        {
            "live": asked.get("after") is None,
            "list": listed(asked, FILTERS, chosen, page.items, page.next),
            "reauth": {grant.grant_id: _reauth(desk, grant) for grant in page.items},
            "remedy": desk.remedy(chosen.get("rule")),
            # What acts on all that match takes as filters; it has none for a part of an id.
            "acts_on": chosen if chosen and "text" not in chosen else None,
        },
    )


def account(desk: Desk, asked: Asked) -> View:
    """One grant."""
    application, grant_id = asked.values["application"], asked.values["grant"]
    grant = desk.operators.grant(grant_id, application=application)
    return View(
        "account.html",
        {
            "live": True,
            "grant": grant,
            "pace": desk.operators.pace(grant_id, application=application),
            "reauth": _reauth(desk, grant),
            "remedy": desk.remedy(grant.rule),
            "events": desk.operators.events(application=application, grant_id=grant_id, limit=EVENTS),
            "jobs": desk.operators.jobs(application=application, grant_id=grant_id, limit=JOBS),
        },
    )


def _reauth(desk: Desk, grant: GrantView) -> str | None:
    """Where its owner signs in again, if they have to."""
    if grant.connected or grant.gone:
        return None
    return desk.reauth_url(grant.application, grant.grant_id)
