"""What became of a job's mail, stored beside the job, and what that does to the job's state.

`sendq.ledger.mail_notices` merges what is reported; here it moves jobs on, each under its lock: a mail that never went
out makes its job a dead letter, and evidence that a mail went out ends whatever was assumed of it before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, select, text

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.facts.outcomes import Attempt, Sent
from sendq.ids import new_id
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows, update_rows
from sendq.ledger.jobs import lock_jobs, store_changes
from sendq.rules.delivery import Delivery, event_for
from sendq.rules.rule_ids import FAILED_LATER, REPORTED
from sendq.rules.states import FINAL, Event, State, move


class Status(NamedTuple):
    """A row of ``sendq_delivery_status``."""

    job_id: UUID
    delivery: str
    at: Micros
    source: str
    detail: str | None
    noted_at: Micros
    generation: int
    message_id: str | None
    pending: bool


def read_statuses(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Status]:
    """The statuses of those of these jobs that have one."""
    table = schema.delivery_status
    rows = connection.execute(select(*(table.c[name] for name in Status._fields)).where(table.c.job_id.in_(ids)))
    return {row.job_id: Status._make(row) for row in rows}


def store_statuses(connection: Connection, statuses: Iterable[Status], *, existing: Mapping[UUID, Status]) -> None:
    """Write statuses; ``existing`` are those that have a row."""
    rows = sorted(statuses, key=lambda one: one.job_id)
    insert_rows(connection, schema.delivery_status, [one._asdict() for one in rows if one.job_id not in existing])
    update_rows(
        connection, schema.delivery_status, [one._asdict() for one in rows if one.job_id in existing], key="job_id"
    )


def move_on(connection: Connection, news: Sequence[tuple[LockedJob, Status]], *, now: Micros) -> list[UUID]:
    """Move locked jobs on because of what became of their mail; returns those that did."""
    moved: list[tuple[LockedJob, Status, Event]] = []
    for job, status in news:
        by_report, in_doubt = job.rule == FAILED_LATER, job.doubt_at is not None
        event = event_for(State(job.state), Delivery(status.delivery), by_report=by_report, in_doubt=in_doubt)
        if event is not None:
            moved.append((job, status, event))
    store_changes(connection, [(job, _moved(job, status, event, now=now)) for job, status, event in moved], now=now)
    append_attempts(connection, [_trail(job, status, event, now=now) for job, status, event in moved])
    return [job.id for job, _, _ in moved]


def _moved(job: LockedJob, status: Status, event: Event, *, now: Micros) -> dict[str, Any]:
    state = move(State(job.state), event)
    assert state in FINAL
    return {
        "id": job.id,
        "state": state.value,
        "rule": REPORTED if event is Event.ACCEPT else FAILED_LATER,
        "message_id": status.message_id or job.message_id,
        "finished_at": now,
        "refused_at": None,
        "look_at": None,
        "looks": None,
        "misses": None,
        "seen": None,
    }


def _trail(job: LockedJob, status: Status, event: Event, *, now: Micros) -> Attempt:
    """An entry in the job's trail that is not a call: what the report says about the calls before."""
    went_out = event is Event.ACCEPT
    return Attempt(
        new_id(),
        job.id,
        status.generation,
        worker_id=None,
        begun_at=now,
        ended_at=now,
        status=None,
        rule=REPORTED if went_out else FAILED_LATER,
        route=None if went_out else "dead_letter",
        sent=Sent.YES if went_out else Sent.NO,
        error=None if went_out else status.detail,
    )


_ANY_PENDING = text("SELECT EXISTS (SELECT 1 FROM sendq_delivery_status WHERE pending)")


def any_pending(connection: Connection) -> bool:
    """Whether a report waits for the record of its acceptance."""
    return bool(connection.execute(_ANY_PENDING).scalar_one())


def apply_pending(connection: Connection, *, now: Micros, limit: int) -> int:
    """Apply reports of failures to jobs whose acceptance is recorded by now; returns how many jobs are dead."""
    table, job = schema.delivery_status, schema.job
    waits = [State.QUEUED.value, State.SENDING.value]
    ended = (
        select(table.c.job_id).join(job, job.c.id == table.c.job_id).where(table.c.pending, job.c.state.not_in(waits))
    )
    ids = connection.execute(ended.limit(limit)).scalars().all()
    jobs = lock_jobs(connection, ids)
    known = read_statuses(connection, list(jobs))
    news = [
        (job, known[job.id])
        for job in jobs.values()
        if job.id in known and known[job.id].pending and known[job.id].generation == job.generation
    ]
    moved = move_on(connection, news, now=now)
    update_rows(connection, table, [{"job_id": one, "pending": False} for one in jobs], key="job_id")
    return len(moved)
