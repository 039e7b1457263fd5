"""What happened to lanes, grants and holds, and what operators did: appended, with author and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.ids import new_id
from sendq.ledger import schema
from sendq.ledger.bulk import insert_rows


def append(
    connection: Connection,
    kind: str,
    *,
    at: Micros,
    by: str,
    application: str | None = None,
    provider: str | None = None,
    grant_id: str | None = None,
    job_id: UUID | None = None,
    rule: str | None = None,
    reason: str | None = None,
) -> None:
    """Write one event down. ``by`` is ``policy``, ``check``, ``reconcile``, ``webhook`` or an operator's name."""
    row = {
        "id": new_id(),
        "at": at,
        "kind": kind,
        "application": application,
        "provider": provider,
        "grant_id": grant_id,
        "job_id": job_id,
        "rule": rule,
        "by": by,
        "reason": reason,
    }
    insert_rows(connection, schema.event, [row])


def latest(connection: Connection, *, limit: int, grant_id: str | None = None) -> Sequence[Row[Any]]:
    """The latest events, the newest first; of one grant if it is named."""
    wanted = select(schema.event).order_by(schema.event.c.at.desc(), schema.event.c.id.desc()).limit(limit)
    if grant_id is not None:
        wanted = wanted.where(schema.event.c.grant_id == grant_id)
    return connection.execute(wanted).all()
