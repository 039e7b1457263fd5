"""What happened to lanes, grants and holds, and what operators did: appended, with author and time.

    hold, release       a grant, provider or application is left alone; somebody ended that (its own end is no event)
    closed, reopened    the lane of a grant whose owner must sign in again, or of which that is suspected
    reauth_required     its owner was called for
    grant_gone          the grant exists no more
    escalated           many grants failed alike: their provider is held, and they are reopened
    narrowed            a lane makes fewer calls at once from now on
    cancel, retry, resolved, deliveries_retried, forget, recovered, rekey    what an operator did

An incident is written down once: what was on the wire when a hold fell adds nothing. ``job_id`` is then the job whose
answer it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows

# Authors of events that no person caused; a person under one of these names could not be told from them.
AUTOMATIC = frozenset({"policy", "escalation", "check", "reconcile", "webhook"})


def append(connection: Connection, kind: str, **what: Any) -> None:
    """Write one event down; what can be said of it stands at `event`."""
    append_all(connection, [event(kind, **what)])


def append_all(connection: Connection, happened: Sequence[Mapping[str, Any]]) -> None:
    """Write events down, in their order."""
    insert_rows(connection, schema.event, happened)


def event(
    kind: str,
    *,
    at: Micros,
    by: str,
    application: str | None = None,
    provider: str | None = None,
    grant_id: str | None = None,
    job_id: UUID | None = None,
    batch_id: UUID | None = None,
    rule: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """What happened, as a row. ``by`` is an operator's name, or what acted by itself: ``policy``, ``escalation``,
    ``check``, ``reconcile``, ``webhook``.
    """
    return {
        "id": new_id(),
        "at": at,
        "kind": kind,
        "application": application,
        "provider": provider,
        "grant_id": grant_id,
        "job_id": job_id,
        "batch_id": batch_id,
        "rule": rule,
        "by": by,
        "reason": reason,
    }


def latest(
    connection: Connection, *, limit: int, grant_id: str | None = None, since: Micros | None = None
) -> Sequence[Row[Any]]:
    """The latest events, the newest first; of one grant, and not before ``since``, if that is wanted."""
    table = schema.event.c
    wanted = select(schema.event).order_by(table.at.desc(), table.id.desc()).limit(limit)
    if grant_id is not None:
        wanted = wanted.where(table.grant_id == grant_id)
    if since is not None:
        wanted = wanted.where(table.at >= since)
    return connection.execute(wanted).all()
