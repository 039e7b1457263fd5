"""The body of a delivery: the recorded facts, and the rule's title and remedy for people."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from sendq.ledger.outcomes import REAUTH_REQUIRED, addresses_of
from settings import Settings
from tasks.policy.row import Policy
from tasks.policy.words import words_of
from worker.notifying.reauth import reauth_url


class Notifications:
    """Composes the body of a delivery."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        self._settings = settings
        self._words = words_of(policy)

    def body(self, row: Row[Any], *, timestamp: int) -> dict[str, Any]:
        """The body for the delivery of this row at ``timestamp`` (seconds since 1970).

        For an unknown rule (another version's, or of a policy file that was removed) title and remedy are None.
        """
        facts = json.loads(row.facts)
        body: dict[str, Any] = {"id": str(row.id), "timestamp": timestamp, **facts}
        if "rule" in facts:
            said = self._words.get(facts["rule"])
            body |= {"title": said and said.title, "remedy": said and said.remedy}
        if row.receiver in self._settings.outcome_addresses and (known := addresses_of(row, self._settings.vault)):
            body["recipients"] = [
                {**one, "address": address} for one, address in zip(facts["recipients"], known, strict=True)
            ]
        if row.kind == REAUTH_REQUIRED:
            body["url"] = reauth_url(self._settings, facts["application"], facts["grant_id"])
        return body
