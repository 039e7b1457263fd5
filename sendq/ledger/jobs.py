"""Jobs: locking them, writing what became of them, and ending those that wait.

`store_changes` is the one way in which a job changes its state once it has begun to matter to others: it writes the
job, the appended count of its batch, and what somebody wants to be told, in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.ids import number
from sendq.ledger import outcomes
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows, one_of, update_rows
from sendq.rules.preflight import repeatable
from sendq.rules.rule_ids import RULE_OF
from sendq.rules.states import FINAL, MOVES, Event, State

# What can change in a job after it was enqueued.
JOB_CHANGES = (
    "id", "state", "next_at", "attempts", "deaths", "conflicts", "generation", "key_at", "doubt_at", "turn", "begun_at",
    "finished_at", "rule", "message_id", "cancel_at",
)  # fmt: skip

COUNTED = FINAL | {State.IN_DOUBT}


def lock_jobs(connection: Connection, ids: Sequence[UUID], *, skip_locked: bool = False) -> dict[UUID, Row[Any]]:
    """Lock jobs, in the order of their ids, and read them as they are now."""
    if not ids:
        return {}
    table = schema.job
    columns = [table.c[name] for name in (*JOB_CHANGES, "batch_id", "priority", "lane_id", "operation", "on_outcome")]
    wanted = select(*columns).where(one_of(connection, table.c.id, sorted(set(ids), key=number))).order_by(table.c.id)
    return {row.id: row for row in connection.execute(wanted.with_for_update(skip_locked=skip_locked)).all()}


def with_changes(job: Any, **changes: Any) -> Any:
    """A job as it was read, with other values in some of its columns."""
    values = {**job._mapping, **changes}
    return SimpleNamespace(**values, _mapping=values)


def end_waiting(
    connection: Connection, events: Mapping[UUID, Event], *, now: Micros, rule: str | None = None
) -> set[UUID]:
    """Let jobs that wait expire, be cancelled, given up or fall into doubt; those that did. Others stay as they are.

    ``rule`` is what decided; by default the event's own (`sendq.rules.rule_ids`).
    """
    jobs = lock_jobs(connection, list(events))
    changed: list[tuple[Any, Mapping[str, Any]]] = []
    for job_id, job in jobs.items():
        event = events[job_id]
        if job.state != State.QUEUED:
            continue
        state = MOVES[State.QUEUED][event]
        finished_at = now if state in FINAL else None
        after = {"id": job_id, "state": state.value, "finished_at": finished_at, "rule": rule or RULE_OF[event]}
        changed.append((job, after))
    store_changes(connection, changed, now=now)
    return {job.id for job, _ in changed}


def withdrawal(operation: str, *, may_have_gone_out: bool) -> Event:
    """What a cancel means for a job that is not tried any more: "cancelled" would be untrue of a mail that is out."""
    return Event.DOUBT if may_have_gone_out and not repeatable(operation) else Event.CANCEL


def store_changes(
    connection: Connection,
    changed: Sequence[tuple[Any, Mapping[str, Any]]],
    *,
    now: Micros,
    counts: Counter[tuple[UUID, str]] | None = None,
    going_on: Collection[UUID] = (),
) -> None:
    """Write what became of jobs: each as it was (locked), and its changed columns, which are the same for all.

    What was is asked for ``id``, ``state``, ``operation``, ``batch_id`` and ``on_outcome``. ``counts`` is what else
    changes in batches; ``going_on`` are listings that go on with their next page, which is no end.
    """
    update_rows(connection, schema.job, [after for _, after in changed])
    counts = Counter() if counts is None else counts
    for before, after in changed:
        if before.batch_id is not None:
            _count(counts, before, None if before.id in going_on else after["state"])
    append_batch_changes(connection, counts, now=now)
    told = [before.id for before, after in changed if before.on_outcome and before.state != after["state"]]
    if told:
        outcomes.append_jobs(connection, told, now=now)


def append_batch_changes(connection: Connection, counts: Mapping[tuple[UUID, str], int], *, now: Micros) -> None:
    """Append what changed in batches: progress is the sum of these rows, so no row is hot."""
    rows = [
        {"batch_id": batch_id, "state": str(state), "count": count, "at": now}
        for (batch_id, state), count in counts.items()
        if count
    ]
    insert_rows(connection, schema.batch_change, rows)


def _count(counts: Counter[tuple[UUID, str]], job: Any, after: str | None) -> None:
    """Count that a job went from the state of its row to another one; None: its listing goes on with the next page.

    Only ends are counted (and doubt, which may be one): what waits is the total less these. Listings are counted by
    themselves, for they are no part of a batch's total.
    """
    listing = "list:" if job.operation == "list" else ""
    if job.state in COUNTED:
        counts[job.batch_id, listing + State(job.state)] -= 1
    if after in COUNTED:
        counts[job.batch_id, listing + State(after)] += 1
