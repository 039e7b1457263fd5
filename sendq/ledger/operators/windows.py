"""The window of a grant: when those of its jobs may begin that have no window of their own.

A new window, or none, counts for the next claim. Jobs that the old one put off are brought back a few hundred at a
time, each to when it may begin now. If that is interrupted, the same change made again continues it; until then the
rest is looked at when the old window opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, literal_column, select, update

from sendq.clock import Micros
from sendq.ids import lane_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.operators.holds import lane_made_for
from sendq.rules.expiry import EXPIRY, is_default
from sendq.rules.rule_ids import OUTSIDE_WINDOW
from sendq.rules.states import State
from sendq.rules.windows import next_opening

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500

_lane = schema.lane.c


def window_of(connection: Connection, application: str, grant_id: str) -> str | None:
    """The window of a grant; None: it has none, or had no job yet."""
    this = select(_lane.time_window).where(_lane.id == lane_id(application, grant_id))
    found: str | None = connection.execute(this).scalar()
    return found


def set_window(
    connection: Connection, application: str, grant_id: str, window: str | None, *, by: str, reason: str, now: Micros
) -> bool:
    """Set the window of a grant, or (None) remove it; False, and no change, if it is as wanted.

    A grant that never had a job gets its lane now, so that the window counts for its first job.
    """
    lane = lane_made_for(connection, application, grant_id, now=now)
    row = connection.execute(select(schema.lane).where(_lane.id == lane).with_for_update()).one()
    if row.time_window == window:
        return False
    connection.execute(update(schema.lane).where(_lane.id == lane).values(time_window=window))
    events.append(
        connection, "window", at=now, by=by, application=application, provider=row.provider, grant_id=grant_id,
        reason=f"{window or 'none'}: {reason}",
    )  # fmt: skip
    return True


def bring_back(
    connection: Connection, application: str, grant_id: str, *, after: UUID, now: Micros
) -> tuple[int, UUID | None]:
    """Bring back the next jobs after an id that the grant's earlier window put off; returns how many begin at another
    time now, and where to continue (None: at the end).
    """
    lane = lane_id(application, grant_id)
    window = window_of(connection, application, grant_id)
    rows = _put_off(connection, lane, after=after, now=now)
    starts: dict[UUID, Micros] = {}
    rules: dict[UUID, str | None] = {}
    for position, row in enumerate(rows):
        due_at = max(now + position, row.due_at)
        starts[row.id] = next_opening(window, due_at)
        rules[row.id] = OUTSIDE_WINDOW if starts[row.id] > due_at else None
    moved = [row for row in rows if starts[row.id] != _start(row)]
    # Those that a person holds, and the others.
    for name, some in (
        ("next_at", [row for row in moved if row.resume_at is None]),
        ("resume_at", [row for row in moved if row.resume_at is not None]),
    ):
        changes = [
            {
                "id": row.id,
                name: starts[row.id],
                "rule": rules[row.id],
                "expires_at": starts[row.id] + EXPIRY if is_default(row, _start(row)) else row.expires_at,
            }
            for row in some
        ]
        update_rows(connection, schema.job, changes)
        if some and name == "next_at":
            append_wakes(connection, wakes_of(some, starts), at=min(starts[row.id] for row in some))
    return len(moved), rows[-1].id if len(rows) == STEP else None


def _start(row: Row[Any]) -> Micros:
    """When a job that waits for a window may begin, once it is released if a person holds it."""
    start: Micros = row.next_at if row.resume_at is None else row.resume_at
    return start


def _put_off(connection: Connection, lane: UUID, *, after: UUID, now: Micros) -> Sequence[Row[Any]]:
    """The next jobs of a lane that wait for its window, locked."""
    job = schema.job.c
    query = (
        select(
            job.id, job.lane_id, job.priority, job.due_at, job.next_at, job.resume_at, job.operation, job.expires_at,
            _lane.application, _lane.grant_id, _lane.provider,
        )
        .join(schema.lane, _lane.id == job.lane_id)
        .where(
            job.lane_id == lane, job.state == literal_column(f"'{State.QUEUED.value}'"),
            job.rule == OUTSIDE_WINDOW, job.time_window.is_(None), job.next_at > now, job.id > after,
        )
        .order_by(job.id)
        .limit(STEP)
        .with_for_update(of=schema.job)
    )  # fmt: skip
    rows: list[Row[Any]] = list(connection.execute(query))
    return rows
