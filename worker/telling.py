"""What a receiver of outcomes is told: the facts as they were written down, and words for the people behind it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from sendq.ledger.outcomes import REAUTH_REQUIRED
from settings import Settings
from tasks.row import Policy
from worker.reauth import reauth_url

_KEPT = "It may have gone out; it is not sent again before that is settled."

# What decides without an answer of the API: title and remedy, as the policy has them for its own rows.
LEDGER_RULES = {
    "accepted": ("Accepted", "Nothing to do."),
    "expired": ("Expired", "Its time was over before it went out: enqueue it anew if it is still wanted."),
    "cancelled": ("Cancelled", "Nothing to do."),
    "key_too_old": ("Key too old to ask with", _KEPT),
    "worker_died": ("A worker died during the call", _KEPT),
    "worker_stopped": ("A worker stopped during the call", _KEPT),
    "grant_expired": (
        "Grant expired",
        "Ask the account's owner to sign in again; the parked jobs go on by themselves.",
    ),
    "grant_deleted": ("Grant deleted", "Connect the account anew, and enqueue for its new grant."),
}


class Telling:
    """Composes the body of a delivery."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self._settings = settings
        self._words = LEDGER_RULES | {row.id: (row.title, row.remedy) for row in policy.rows}

    def body(self, row: Row[Any], *, timestamp: int) -> dict[str, Any]:
        """What is told by the delivery of this row at ``timestamp`` (seconds since 1970).

        A rule that nobody here has words for (another version's, or of a policy file that is gone) has neither title
        nor remedy.
        """
        facts = json.loads(row.facts)
        body: dict[str, Any] = {"id": str(row.id), "timestamp": timestamp, **facts}
        if "rule" in facts:
            title, remedy = self._words.get(facts["rule"], (None, None))
            body |= {"title": title, "remedy": remedy}
        if row.kind == REAUTH_REQUIRED:
            body["url"] = reauth_url(self._settings, facts["application"], facts["grant_id"])
        return body
