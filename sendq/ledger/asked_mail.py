"""Which applications to ask about their mail: those with Agent Accounts for which no notifications arrive."""

from __future__ import annotations

from sqlalchemy import Connection, exists, select

from sendq.clock import Micros
from sendq.ledger.db import schema

# The provider of Agent Accounts, the only one that has send events.
AGENT_ACCOUNTS = "nylas"


def applications_to_ask(connection: Connection, *, since: Micros) -> list[str]:
    """Applications whose Agent Accounts sent mail since then, and for which no notification about mail ever came."""
    pair, count = schema.pair.c, schema.notice_count.c
    notified = exists().where(count.application == pair.application, count.kind.like("message.%"))
    rows = connection.execute(
        select(pair.application).where(pair.provider == AGENT_ACCOUNTS, pair.proven_at >= since, ~notified)
    )
    return sorted(rows.scalars())
