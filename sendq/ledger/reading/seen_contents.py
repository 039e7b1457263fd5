"""What an approval of many jobs is about: the content that each had when it was seen.

A message may be replaced while an approval goes on, or since the list was read: then nobody has seen what it is now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, select

from sendq.clock import Micros
from sendq.ledger.db import schema

_job = schema.job.c
_event = schema.event.c

# The content version of a job whose message was replaced since: no job has it.
_UNSEEN = -1


def seen_contents(
    connection: Connection, which: Sequence[ColumnElement[bool]], *, at: Micros | None
) -> Mapping[UUID, int]:
    """The content versions of jobs that match, by their ids; those that are 0 are left out.

    ``at``: when they were seen, for the messages that were replaced since; None: now.
    """
    lane = schema.lane
    replaced = (
        select(_job.id, _job.content_version)
        .select_from(schema.job.outerjoin(lane, lane.c.id == _job.lane_id))
        .where(*which, _job.content_version > 0)
    )
    seen = {row.id: int(row.content_version) for row in connection.execute(replaced)}
    if seen and at is not None:
        since = select(_event.job_id).where(_event.at >= at, _event.kind == "replace")
        seen |= dict.fromkeys(connection.execute(since).scalars(), _UNSEEN)
    return seen


def was_seen(job: Row[Any], seen: Mapping[UUID, int]) -> bool:
    """Whether a locked job still has the content that was seen."""
    return bool(job.content_version == seen.get(job.id, 0))
