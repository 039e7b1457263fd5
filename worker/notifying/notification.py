"""What a receiver of outcomes is told: the facts as they were written down, and words for the people behind it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from sendq.ledger.outcomes import REAUTH_REQUIRED
from settings import Settings
from tasks.policy.row import Policy
from tasks.policy.words import words_of
from worker.notifying.reauth import reauth_url


class Telling:
    """Composes the body of a delivery."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self._settings = settings
        self._words = words_of(policy)

    def body(self, row: Row[Any], *, timestamp: int) -> dict[str, Any]:
        """What is told by the delivery of this row at ``timestamp`` (seconds since 1970).

        A rule that nobody here has words for (another version's, or of a policy file that is gone) has neither title
        nor remedy.
        """
        facts = json.loads(row.facts)
        body: dict[str, Any] = {"id": str(row.id), "timestamp": timestamp, **facts}
        if "rule" in facts:
            said = self._words.get(facts["rule"])
            body |= {"title": said and said.title, "remedy": said and said.remedy}
        if row.kind == REAUTH_REQUIRED:
            body["url"] = reauth_url(self._settings, facts["application"], facts["grant_id"])
        return body
