"""Jobs: locking them, ending those that wait, and the appended counts of their batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.ledger import schema
from sendq.ledger.bulk import insert_rows, update_rows
from sendq.states import FINAL, MOVES, Event, State

# What can change in a job after it was enqueued.
JOB_CHANGES = (
    "id", "state", "next_at", "attempts", "deaths", "conflicts", "generation", "key_at", "doubt_at", "turn", "begun_at",
    "finished_at", "rule", "message_id", "cancel_at",
)  # fmt: skip

COUNTED = FINAL | {State.IN_DOUBT}

# The rule that is written down when no answer decided, but the ledger itself.
RULE_OF = {Event.EXPIRE: "expired", Event.DOUBT: "key_too_old", Event.CANCEL: "cancelled"}


def lock_jobs(connection: Connection, ids: Sequence[UUID], *, skip_locked: bool = False) -> dict[UUID, Row[Any]]:
    """Lock jobs, in the order of their ids, and read them as they are now."""
    if not ids:
        return {}
    table = schema.job
    columns = [table.c[name] for name in (*JOB_CHANGES, "batch_id", "priority", "lane_id", "operation")]
    wanted = select(*columns).where(table.c.id.in_(sorted(set(ids)))).order_by(table.c.id)
    return {row.id: row for row in connection.execute(wanted.with_for_update(skip_locked=skip_locked))}


def end_waiting(
    connection: Connection, events: Mapping[UUID, Event], *, now: Micros, rule: str | None = None
) -> set[UUID]:
    """Let jobs that wait expire, be cancelled, given up or fall into doubt; those that did. Others stay as they are.

    ``rule`` is what decided; by default the event's own (`RULE_OF`).
    """
    jobs = lock_jobs(connection, list(events))
    rows: list[dict[str, Any]] = []
    counts: Counter[tuple[UUID, str]] = Counter()
    for job_id, job in jobs.items():
        event = events[job_id]
        if job.state != State.QUEUED:
            continue
        state = MOVES[State.QUEUED][event]
        finished_at = now if state in FINAL else None
        rows.append({"id": job_id, "state": state.value, "finished_at": finished_at, "rule": rule or RULE_OF[event]})
        count_change(counts, job, state)
    update_rows(connection, schema.job, rows)
    append_batch_changes(connection, counts, now=now)
    return {row["id"] for row in rows}


def withdrawal(operation: str, *, may_have_gone_out: bool) -> Event:
    """What a cancel means for a job that is not tried any more: "cancelled" would be untrue of a mail that is out."""
    return Event.DOUBT if operation == "send" and may_have_gone_out else Event.CANCEL


def count_change(counts: Counter[tuple[UUID, str]], job: Any, after: str | None) -> None:
    """Count that a job went from the state of its row to another one; None: its listing goes on with the next page.

    Only ends are counted (and doubt, which may be one): what waits is the total less these. Listings are counted by
    themselves, for they are no part of a batch's total.
    """
    if job.batch_id is None:
        return
    listing = "list:" if job.operation == "list" else ""
    if job.state in COUNTED:
        counts[job.batch_id, listing + State(job.state)] -= 1
    if after in COUNTED:
        counts[job.batch_id, listing + State(after)] += 1


def append_batch_changes(connection: Connection, counts: Counter[tuple[UUID, str]], *, now: Micros) -> None:
    """Append what changed in batches: progress is the sum of these rows, so no row is hot."""
    rows = [
        {"batch_id": batch_id, "state": str(state), "count": count, "at": now}
        for (batch_id, state), count in counts.items()
        if count
    ]
    insert_rows(connection, schema.batch_change, rows)
