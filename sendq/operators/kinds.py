"""The kinds of events and of outcomes, for programs that offer them as filters."""

from __future__ import annotations

from sendq.ledger.events import KINDS as EVENT_KINDS
from sendq.ledger.outcomes import KINDS as OUTCOME_KINDS

__all__ = ["EVENT_KINDS", "OUTCOME_KINDS"]
