"""The provider of a lane's grant, and the lane's pace: both are stored with the lane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.facts.lanes import Lane
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.lanes import lock
from sendq.rules.paces import Paces


def pace_columns(paces: Paces, application: str, provider: str, grant_id: str) -> dict[str, Any]:
    """The columns of a lane that depend on its pace."""
    return {
        "width": paces.of(application, provider, grant_id).width,
        "pace": paces.own(application, provider, grant_id),
    }


def name_providers(
    connection: Connection, lanes: Mapping[UUID, Lane], providers: Mapping[UUID, str], *, paces: Paces
) -> set[tuple[str, str]]:
    """Set the providers of these (locked) lanes, and their pace to their provider's.

    Returns their pairs, which may not exist yet: pass them to `make_pairs`.
    """
    changes = []
    for lane_id, provider in sorted(providers.items()):
        lane = lanes[lane_id]
        pace = pace_columns(paces, lane.application, provider, lane.grant_id)
        ramp = min(lane.ramp, pace["width"])
        changes.append({"id": lane_id, "provider": provider, "ramp": ramp, "used": None, "stretch": 0} | pace)
    update_rows(connection, schema.lane, changes)
    return {(lanes[lane_id].application, provider) for lane_id, provider in providers.items()}


def apply_paces(connection: Connection, paces: Paces, *, after: UUID, limit: int) -> tuple[UUID | None, int]:
    """Apply the current settings to the pace of the next ``limit`` lanes after an id.

    Returns where to continue (None: those were the last) and how many of them had another pace.
    """
    table = schema.lane.c
    columns = select(table.id, table.application, table.provider, table.grant_id, table.pace)
    rows = connection.execute(columns.where(table.id > after).order_by(table.id).limit(limit)).all()
    others = {row.id for row in rows if row.pace != paces.own(row.application, row.provider, row.grant_id)}
    changes = [
        {"id": lane.id, "ramp": 1, "used": None} | pace_columns(paces, lane.application, lane.provider, lane.grant_id)
        for lane in lock(connection, others).values()
    ]
    update_rows(connection, schema.lane, changes)
    return (rows[-1].id if len(rows) == limit else None), len(changes)
