"""What became of a job's mail, stored beside the job, and what that does to the job's state.

`sendq.ledger.mail_notices` merges what is reported; here it moves jobs on, each under its lock: a mail that never went
out makes its job a dead letter, and evidence that a mail went out ends whatever was assumed of it before.

A report may come while its send is on the wire. It is *pending* then, and applied as soon as the outcome is recorded:
in the same transaction if the job would otherwise be sent again (`apply_known`), else by the leader (`apply_pending`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Select, and_, or_, select, text

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.facts.outcomes import Attempt, Sent
from sendq.ids import new_id
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_rows, update_rows
from sendq.ledger.dispatching.mail_news import note_news
from sendq.ledger.jobs import lock_jobs, store_changes
from sendq.rules.after import BAD_NEWS
from sendq.rules.delivery import WENT_OUT, Delivery, Known, MailJob, Report, event_for, is_pending
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

    @property
    def known(self) -> Known:
        """What it says."""
        return Known(report_of(self), self.generation, self.message_id, self.pending)


def report_of(row: Any) -> Report:
    """The report in a row of a status, of a mail or of a recipient's copy."""
    return Report(Delivery(row.delivery), row.at, row.source, row.detail)


def mail_job(job: LockedJob) -> MailJob:
    """What reports need to know of a job."""
    return MailJob(
        State(job.state), job.generation, job.key_at, job.message_id,
        failed_later=job.rule == FAILED_LATER, in_doubt=job.doubt_at is not None,
    )  # fmt: skip


def read_statuses(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Status]:
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


def move_on(connection: Connection, news: Sequence[tuple[LockedJob, Status]], *, now: Micros) -> Mapping[UUID, State]:
    """Move locked jobs on because of what became of their mail; returns the new states of those that did."""
    moved = [
        (job, status, event) for job, status in news if (event := event_for(mail_job(job), status.known)) is not None
    ]
    changes = [(job, _moved(job, status, event, now=now)) for job, status, event in moved]
    store_changes(connection, changes, now=now)
    append_attempts(connection, [_trail(job, status, event, now=now) for job, status, event in moved])
    return {job.id: State(after["state"]) for job, after in changes}


def _moved(job: LockedJob, status: Status, event: Event, *, now: Micros) -> dict[str, Any]:
    state = move(State(job.state), event)
    assert state in FINAL
    went_out = event is Event.ACCEPT
    return {
        "id": job.id,
        "state": state.value,
        "rule": REPORTED if went_out else FAILED_LATER,
        "message_id": mail_job(job).accepted_id or status.message_id or job.message_id,
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
        job.generation,
        worker_id=None,
        begun_at=now,
        ended_at=now,
        status=None,
        rule=REPORTED if went_out else FAILED_LATER,
        route=None if went_out else "dead_letter",
        sent=Sent.YES if went_out else Sent.NO,
        error=None if went_out else status.detail,
    )


# --- what came before the outcome was recorded ------------------------------------------------------------------------


def apply_known(connection: Connection, ids: Collection[UUID], *, now: Micros) -> Mapping[UUID, State]:
    """Apply what is known to those of these jobs whose outcome is recorded; returns the new states of those that moved.

    Without a report about any of them it is one query, which locks nothing.
    """
    reported = read_statuses(connection, ids) if ids else {}
    if not reported:
        return {}
    jobs = lock_jobs(connection, list(reported))
    statuses = read_statuses(connection, list(jobs)) if jobs else {}
    known = [(jobs[job_id], status) for job_id, status in statuses.items()]
    moved = move_on(connection, known, now=now)
    after, settled = [], set()
    for job, status in known:
        state = moved.get(job.id, State(job.state))
        # A report stays with the generation that it is about, unless it has ended the job.
        generation = job.generation if job.id in moved else status.generation
        pending = status.pending and is_pending(state, Delivery(status.delivery))
        if (generation, pending) != (status.generation, status.pending):
            after.append({"job_id": job.id, "generation": generation, "pending": pending})
            if not pending:
                settled.add(job.id)
    update_rows(connection, schema.delivery_status, after, key="job_id")
    bounced = {job.id for job, status in known if job.id in settled and status.delivery in BAD_NEWS}
    note_news(connection, answers={}, bounced=bounced, now=now)
    return moved


def failed_later(connection: Connection, sends: Collection[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """Those of these sends (job and generation) that a report has called failed after they were accepted."""
    if not sends:
        return set()
    table = schema.attempt.c
    rows = connection.execute(
        select(table.job_id, table.generation).where(
            table.job_id.in_({job_id for job_id, _ in sends}), table.rule == FAILED_LATER
        )
    )
    return {(row.job_id, row.generation) for row in rows} & set(sends)


def known_as_sent(connection: Connection, ids: Collection[UUID]) -> dict[UUID, int]:
    """Those of these jobs whose mail went out as reports say, with the generation that these are about."""
    table = schema.delivery_status.c
    went_out = table.delivery.in_([delivery.value for delivery in WENT_OUT])
    rows = connection.execute(select(table.job_id, table.generation).where(table.job_id.in_(ids), went_out))
    return {row.job_id: row.generation for row in rows}


# Spelled out without a type, or SQLite is given "pending = 1" and uses no partial index.
_PENDING = text("pending")


def find_pending(connection: Connection, *, limit: int) -> Sequence[UUID]:
    """Jobs with a report that waited for the record of an outcome, which exists by now."""
    return connection.execute(pending_jobs(limit)).scalars().all()


def pending_jobs(limit: int) -> Select[Any]:
    """The query of `find_pending`. A job that waits to repeat a request has no outcome, unless its mail went out."""
    table, job = schema.delivery_status, schema.job
    went_out = table.c.delivery.in_([delivery.value for delivery in WENT_OUT])
    ended = job.c.state.not_in([State.QUEUED.value, State.SENDING.value])
    recorded = or_(ended, and_(job.c.state == State.QUEUED.value, went_out))
    return select(table.c.job_id).join(job, job.c.id == table.c.job_id).where(_PENDING, recorded).limit(limit)
