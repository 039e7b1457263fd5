"""Rows of jobs, keys and wakes, as `Plan` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sendq.clock import Micros
from sendq.enqueueing.options import Options, expiry_of, opening, priority_of
from sendq.rules.rule_ids import OUTSIDE_WINDOW
from sendq.rules.tags import stored_tags
from sendq.rules.waiting_job import unapproved


def job_row(
    operation: str,
    job_id: UUID,
    lane: UUID,
    options: Options,
    *,
    now: Micros,
    due_at: Micros,
    position: int,
    form: str | None = None,
    tagged: bool,
    windowed: bool,
) -> dict[str, Any]:
    """The row of one job, the one at ``position`` in its call; ``tagged``: some job of the call has tags;
    ``windowed``: some has a window.
    """
    opens_at = opening(options, due_at)
    # A microsecond more for each job of a call: `next_at` alone then gives the order of arrival, and a scan of a lane
    # that starts at one job skips none before it. Not added to `due_at`, which orders the jobs of one message: the last
    # job of a large call would come after the first of the next call.
    next_at = opens_at + position
    row = {
        "id": job_id,
        "lane_id": lane,
        "batch_id": None,
        "operation": operation,
        "form": form,
        "object_id": None,
        "priority": priority_of(options),
        "state": "queued",
        "due_at": due_at,
        "next_at": next_at,
        "expires_at": expiry_of(operation, options, opens_at),
        "created_at": now,
        "on_outcome": options.on_outcome,
        "key": options.key,
        "in_doubt": options.in_doubt,
    }
    # All rows of a call have the same columns; most calls have no tags, and do not pay for them.
    if tagged:
        row["tags"] = stored_tags(options.tags)
    if windowed:
        row["time_window"] = None if options.window is None else str(options.window)
        row["rule"] = OUTSIDE_WINDOW if opens_at > due_at else None
    return row


def approval_columns(row: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The columns with which the row of a job waits for approval. All rows of a call that has some get them."""
    if options.needs_approval:
        return unapproved(row["next_at"], row["expires_at"], row.get("time_window"))
    return {"next_at": row["next_at"], "resume_at": None, "approve_by": None, "rule": row.get("rule")}


def key_row(
    options: Options, digest: bytes, *, now: Micros, job_id: UUID | None = None, batch_id: UUID | None = None
) -> dict[str, Any]:
    return {
        "application": options.application,
        "key": options.key,
        "digest": digest,
        "job_id": job_id,
        "batch_id": batch_id,
        "created_at": now,
    }


class Wakes:
    """One wake row for each lane of a call: the earliest due time of its new jobs, by priority."""

    def __init__(self) -> None:
        self._rows: dict[UUID, dict[str, Any]] = {}

    def add(self, lane: UUID, options: Options, grant_id: str, priority: int, at: Micros) -> None:
        """A job of this lane is due then."""
        row = self._rows.get(lane)
        if row is None:
            row = self._rows[lane] = {
                "lane_id": lane,
                "application": options.application,
                "grant_id": grant_id,
                "provider": options.provider,
                "high_at": None,
                "normal_at": None,
                "low_at": None,
            }
        name = ("high_at", "normal_at", "low_at")[priority]
        row[name] = at if row[name] is None else min(row[name], at)

    def rows(self) -> list[dict[str, Any]]:
        """The rows to be inserted."""
        return list(self._rows.values())
