"""Finding jobs, batches and grants by any of their names. Each query is a look-up in an index."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, select

from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.views import Found, FoundGrant
from sendq.views.overview import FOUND_MOST


def search(connection: Connection, text: str) -> Found:
    """What has this id, key (in any application), message id or grant id."""
    jobs: dict[str, None] = {}
    batches: dict[str, None] = {}
    identity = _uuid(text)
    if identity is not None:
        jobs |= _ids(connection, schema.job, schema.job.c.id == identity)
        batches |= _ids(connection, schema.batch, schema.batch.c.id == identity)
    applications = _applications(connection)
    key = schema.key.c
    named = connection.execute(
        select(key.job_id, key.batch_id).where(key.application.in_(applications), key.key == text).limit(FOUND_MOST)
    )
    for row in named:
        if row.job_id is not None:
            jobs |= _ids(connection, schema.job, schema.job.c.id == row.job_id)
        if row.batch_id is not None:
            batches |= _ids(connection, schema.batch, schema.batch.c.id == row.batch_id)
    jobs |= _ids(connection, schema.job, schema.job.c.message_id == text)
    lane = schema.lane.c
    lanes = [lane_id(application, text) for application in applications]
    grants = connection.execute(
        select(lane.application, lane.grant_id).where(lane.id.in_(lanes)).order_by(lane.application).limit(FOUND_MOST)
    )
    return Found(tuple(jobs), tuple(batches), tuple(FoundGrant(row.application, row.grant_id) for row in grants))


def _applications(connection: Connection) -> list[str]:
    """The applications that have had a job or a hold: there is a row for each of their providers, and these are few."""
    return list(connection.execute(select(schema.pair.c.application).distinct()).scalars())


def _ids(connection: Connection, table: Table, condition: ColumnElement[bool]) -> dict[str, None]:
    found = connection.execute(select(table.c.id).where(condition).order_by(table.c.id.desc()).limit(FOUND_MOST))
    return dict.fromkeys(map(str, found.scalars()))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
