"""`NEVER`, and what an ``expires_at`` may be."""

from __future__ import annotations

from datetime import datetime


class Never:
    """``expires_at=NEVER``: the job does not expire."""

    def __repr__(self) -> str:
        return "sendq.NEVER"


NEVER = Never()

Expiry = datetime | Never | None
