"""Loading the jobs of a turn: the first of each lane that may run, and how they relate to others of their message.

Jobs for one object run strictly one after another, in the order in which they were requested, or a late repeat of one
would undo what a later one did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Connection,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import Executable

from sendq.clock import SECOND, Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import POSTGRESQL, update_rows
from sendq.ledger.dispatching.budgets import NO_BUDGETS, OverBudget, wait_for_budgets
from sendq.ledger.dispatching.lineage import DISPATCHER
from sendq.ledger.dispatching.tag_holds import hold_back
from sendq.ledger.dispatching.windows import wait_for_windows
from sendq.ledger.jobs import lock_due
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.changed_fields import BITS
from sendq.rules.preflight import FORMS, OPERATIONS
from sendq.rules.rule_ids import AFTER, OUTSIDE_WINDOW, TAG_HELD
from sendq.rules.waiting_job import HELD

# A job that must wait for an earlier one of the same object that is not in this turn is looked at again after this.
BEHIND_RECHECK = 1 * SECOND

# … and after this at the latest, if a person holds that one, or a tag of it, or it waits for its window: any of these
# may end at any time.
HELD_RECHECK = 30 * SECOND

# A job that this version cannot carry out is put off for this long. A worker that claims its lane later may be able to.
FOREIGN_RECHECK = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Loaded:
    """The first jobs of each lane that may run now; which of them are overtaken; and, by lane, the operations that
    this version does not know. ``over``: the budgets for which sends have been put off.
    """

    jobs: Mapping[UUID, list[ClaimedJob]]
    overtaken: frozenset[UUID]
    foreign: Mapping[UUID, frozenset[str]]
    over: frozenset[Budget] = frozenset()


# The columns that come from the job's own row.
_JOB = ClaimedJob._fields[: ClaimedJob._fields.index("tags") + 1]


def first_jobs(connection: Connection, lanes: Mapping[UUID, Lane], *, now: Micros, jobs_each: int) -> list[ClaimedJob]:
    """The first waiting jobs of each lane and priority that are due, as they are: nothing is changed or locked."""
    if connection.dialect.name == "postgresql":
        values = _scans(lanes) | {"now": now, "each": jobs_each}
        return [ClaimedJob._make(job) for job in constant.rows(connection, _load_of("postgresql"), values)]
    found = []
    for lane_id, lane in lanes.items():
        scan: dict[str, Any] = {f"floor{p}": floor for p, floor in enumerate(lane.floors)}
        scan |= {"lane": lane_id, "now": now, "each": jobs_each}
        found += [ClaimedJob._make(job) for job in connection.execute(_load_of("sqlite"), scan)]
    return found


def first_jobs_with(
    connection: Connection, lanes: Mapping[UUID, Lane], beside: str, *, now: Micros, jobs_each: int
) -> tuple[list[ClaimedJob], list[tuple[Any, ...]]]:
    """PostgreSQL: `first_jobs`, and in the same statement ``beside``, columns of the leader's row and of a lane's
    ``v.application`` and ``v.provider``: its values for each job, and for each lane without one.
    """
    values = _scans(lanes) | {"now": now, "each": jobs_each}
    values |= {name: [getattr(lane, name) for lane in lanes.values()] for name in ("application", "provider")}
    rows = constant.rows(connection, _load_of("postgresql", beside), values)
    width = len(ClaimedJob._fields)
    jobs = [job for row in rows if (job := ClaimedJob._make(row[:width])).id is not None]
    return jobs, [row[width:] for row in rows]


def _scans(lanes: Mapping[UUID, Lane]) -> dict[str, Any]:
    """PostgreSQL's parameters: the lanes, and where the scan of each begins."""
    columns: dict[str, Any] = {"lane": list(lanes)}
    return columns | {f"floor{p}": [lane.floors[p] for lane in lanes.values()] for p in range(3)}


def load_jobs(
    connection: Connection,
    lanes: Mapping[UUID, Lane],
    *,
    now: Micros,
    jobs_each: int,
    budgets: Budgets = NO_BUDGETS,
) -> Loaded:
    """The first jobs of each lane that may run now, by priority, due time and arrival."""
    found = first_jobs(connection, lanes, now=now, jobs_each=jobs_each)
    loaded: dict[UUID, list[ClaimedJob]] = {lane_id: [] for lane_id in lanes}
    foreign = [job for job in found if is_foreign(job)]
    known = [job for job in found if not is_foreign(job)] if foreign else found
    related = _related(connection, known)
    waiting = hold_back(connection, lanes, found, now=now)
    waiting |= wait_for_windows(connection, lanes, found, waiting, now=now)
    over = wait_for_budgets(connection, lanes, found, waiting, budgets, now=now) if budgets else OverBudget()
    waiting |= over.jobs
    free = [job for job in known if job.id not in waiting] if waiting else known
    behind = _behind(free, related, now=now) | {job.id: now + FOREIGN_RECHECK for job in foreign}
    behind |= {job.id: HELD for job in found if job.rule == AFTER}  # whatever has changed its time: not before its job
    for job in sorted(free, key=place_in_queue):
        # Most claims have none of these, and looking up each id has a measurable cost.
        if behind and job.id in behind:
            continue
        sender = related[job.id].sender_id if related and job.id in related else None
        loaded[job.lane_id].append(job if sender is None else job._replace(sender_id=sender))
    if behind:
        # Put them off, or they would be first in every scan of their lane, and make it look due when it is not.
        due = lock_due(connection, [job.id for job in found], now=now) & behind.keys()
        update_rows(connection, schema.job, [{"id": job_id, "next_at": behind[job_id]} for job_id in due])
    # Order first and cut then, or the cut could drop the earlier of two and keep the later one.
    ordered = {lane_id: _in_object_order(jobs, related)[:jobs_each] for lane_id, jobs in loaded.items()}
    return Loaded(
        ordered,
        frozenset(job_id for job_id, row in related.items() if row.overtaken),
        {job.lane_id: frozenset(one.operation for one in foreign if one.lane_id == job.lane_id) for job in foreign},
        over.budgets,
    )


class _Related(NamedTuple):
    """How a job relates to others of its message or thread."""

    id: UUID
    sender_id: UUID | None  # the job that sent the message, if this one replaces its metadata
    overtaken: bool | None  # a later change of the same fields has already been made
    behind: UUID | None  # the nearest earlier job that has not ended
    behind_next_at: Micros | None
    behind_rule: str | None


def _related(connection: Connection, jobs: Sequence[ClaimedJob]) -> dict[UUID, _Related]:
    """How jobs that change a message or thread relate to its other jobs. Sends need no query."""
    ids = [job.id for job in jobs if job.object_id is not None]
    if not ids:
        return {}
    found = constant.rows(connection, _related_of(connection.dialect.name), {"ids": ids})
    return {row[0]: _Related._make(row) for row in found}


def place_in_queue(job: ClaimedJob) -> tuple[int, Micros, int]:
    """By priority, due time and arrival."""
    return job.priority, job.next_at, job.id.int


def is_foreign(job: ClaimedJob) -> bool:
    """Whether only a newer version can carry it out."""
    return job.operation not in OPERATIONS or job.form not in FORMS


def _behind(found: Sequence[ClaimedJob], related: Mapping[UUID, _Related], *, now: Micros) -> dict[UUID, Micros]:
    """The jobs that must wait for an earlier one of their object that this turn does not run, and until when."""
    if not related:
        return {}
    in_sight = {job.id for job in found}
    waits_until: dict[tuple[UUID, str | None], Micros] = {}
    behind: dict[UUID, Micros] = {}
    for job in sorted(found, key=lambda job: (job.due_at, job.id)):
        before = related.get(job.id)
        if before is None or before.behind is None:
            continue
        name = (job.lane_id, job.object_id)
        if before.behind not in in_sight:
            after = max(before.behind_next_at or 0, now + BEHIND_RECHECK)
            # A hold of a person or of a tag may end before its time, and then only the held jobs are brought back; so
            # may the wait for a window, if the grant's default changes.
            held = after >= HELD or before.behind_rule in (TAG_HELD, OUTSIDE_WINDOW)
            waits_until[name] = min(after, now + HELD_RECHECK) if held else after
        if name in waits_until:  # all later jobs of the object wait too, wherever they are
            behind[job.id] = waits_until[name]
    return behind


def _in_object_order(jobs: list[ClaimedJob], related: Mapping[UUID, _Related]) -> list[ClaimedJob]:
    """The jobs, with those of one object in the order in which they were requested, whatever their priority."""
    if not related or all(job.id not in related or related[job.id].behind is None for job in jobs):
        return jobs
    by_object: dict[str, list[ClaimedJob]] = {}
    for job in sorted(jobs, key=lambda job: (job.due_at, job.id)):
        if job.object_id is not None:
            by_object.setdefault(job.object_id, []).append(job)
    return [job if job.object_id is None else by_object[job.object_id].pop(0) for job in jobs]


def _one_row_of(table: str, name: str, key: str, value: str, *, dialect: str) -> str:
    """A left join of the one row of ``table`` whose ``key`` is ``value``.

    On PostgreSQL it is looked up for each row: a plan that joins the whole table is right while the table is small, and
    may be kept until it is large.
    """
    if dialect == "postgresql":
        return f"LEFT JOIN LATERAL (SELECT * FROM {table} WHERE {key} = {value} LIMIT 1) AS {name} ON true"  # noqa: S608
    return f"LEFT JOIN {table} AS {name} ON {name}.{key} = {value}"


@lru_cache
def _load_of(dialect: str, beside: str = "") -> Executable:
    prefix = "v." if dialect == "postgresql" else ":"
    columns = ", ".join((*_JOB, "seal", "seal_key", "traceparent", "time_window"))
    parts = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {columns} FROM sendq_job WHERE lane_id = {prefix}lane AND state = 'queued'"  # noqa: S608
        f" AND priority = {priority} AND next_at >= {prefix}floor{priority} AND next_at <= :now"
        f" ORDER BY next_at, id LIMIT :each) AS p{priority}"
        for priority in range(3)
    )
    selected = (
        f"SELECT {', '.join(f'j.{name}' for name in _JOB)},"
        " coalesce(p.body, b.body) AS body, coalesce(p.content_type, b.content_type) AS content_type,"
        " CASE WHEN p.job_id IS NOT NULL THEN p.cipher_key ELSE b.cipher_key END AS cipher_key,"
        " p.job_id IS NOT NULL AS own_body,"
        " p.length, b.target, b.hard, b.cancel_at AS batch_cancel_at, NULL AS sender_id,"
        " b.fields, j.seal, j.seal_key, NULL AS files,"
        " coalesce(j.traceparent, b.traceparent) AS traceparent, j.time_window, b.undoable, NULL AS snapshot"
    )
    payload = _one_row_of("sendq_payload", "p", "job_id", "j.id", dialect=dialect)
    joins = f"{payload} {_one_row_of('sendq_batch', 'b', 'id', 'j.batch_id', dialect=dialect)}"
    if dialect == "postgresql":
        given: dict[str, Any] = {"lane": Uuid()} | {f"floor{priority}": BigInteger() for priority in range(3)}
        if beside:
            given |= {"application": Text(), "provider": Text()}
        arrays = ", ".join(f"CAST(:{name} AS {kind.compile(POSTGRESQL)}[])" for name, kind in given.items())
        source = f"FROM unnest({arrays}) AS v ({', '.join(given)})"
        if beside:
            selected += f", {beside}"
            leader = f"JOIN sendq_leader ON sendq_leader.name = '{DISPATCHER}'"
            source = f"{source} {leader} LEFT JOIN LATERAL ({parts}) AS j ON true"
        else:
            source = f"{source} CROSS JOIN LATERAL ({parts}) AS j"
        binds: list[BindParameter[Any]] = [bindparam(name, type_=ARRAY(kind)) for name, kind in given.items()]
    else:
        source = f"FROM ({parts}) AS j"
        binds = [bindparam("lane", type_=Uuid())]
    types: dict[str, Any] = {name: schema.job.c[name].type for name in _JOB}
    types |= {
        "target": Text(),
        "hard": Boolean(),
        "batch_cancel_at": BigInteger(),
        "sender_id": Uuid(),
        "fields": SmallInteger(),
        "seal": LargeBinary(),
        "seal_key": Text(),
        "traceparent": Text(),
        "time_window": Text(),
        "undoable": Boolean(),
    }
    types |= {"body": LargeBinary(), "content_type": Text(), "length": BigInteger()}
    types |= {"cipher_key": Text(), "own_body": Boolean()}
    return text(f"{selected} {source} {joins}").bindparams(*binds).columns(**types)


@lru_cache
def _related_of(dialect: str) -> Executable:
    # The nearest earlier job of the same object that has not ended; it must go first, or a late repeat of it
    # would undo what this one does.
    before = (
        "FROM sendq_job AS o WHERE o.lane_id = j.lane_id AND o.object_id = j.object_id"
        " AND o.state IN ('queued', 'sending') AND (o.due_at, o.id) < (j.due_at, j.id)"
        " ORDER BY o.due_at DESC, o.id DESC LIMIT 1"
    )
    # The job that sent the message whose metadata is about to be replaced: the message carries its id as our mark.
    metadata = BITS["metadata"]
    sender = (
        f"CASE WHEN j.operation = 'modify' AND (b.fields & {metadata}) <> 0 THEN (SELECT s.id FROM sendq_job AS s"  # noqa: S608
        " WHERE s.message_id = j.object_id AND s.lane_id = j.lane_id ORDER BY s.id LIMIT 1) END"
    )
    # A job made by a walk has the place of the walk's call in the queue. A later change of the same message and fields
    # may already be made, and must not be undone. (One that still waits, waits behind it.)
    overtaken = (
        "CASE WHEN b.walk IS NOT NULL AND j.object_id IS NOT NULL THEN EXISTS (SELECT 1 FROM sendq_job AS n"
        " WHERE n.lane_id = j.lane_id AND n.object_id = j.object_id AND n.state IN ('sent', 'sending')"
        " AND n.due_at > j.due_at"
        " AND ((SELECT nb.fields FROM sendq_batch AS nb WHERE nb.id = n.batch_id) & b.fields) <> 0) END"
    )
    these = "= ANY(:ids)" if dialect == "postgresql" else "IN :ids"
    batch = _one_row_of("sendq_batch", "b", "id", "j.batch_id", dialect=dialect)
    statement = text(
        f"SELECT j.id, {sender} AS sender_id, {overtaken} AS overtaken, (SELECT o.id {before}) AS behind,"  # noqa: S608
        f" (SELECT o.next_at {before}) AS behind_next_at, (SELECT o.rule {before}) AS behind_rule"
        f" FROM sendq_job AS j {batch} WHERE j.id {these}"
    )
    if dialect == "postgresql":
        statement = statement.bindparams(bindparam("ids", type_=ARRAY(Uuid())))
    else:
        statement = statement.bindparams(bindparam("ids", type_=Uuid(), expanding=True))
    types: dict[str, Any] = {"id": Uuid(), "sender_id": Uuid(), "overtaken": Boolean()}
    return statement.columns(**types, behind=Uuid(), behind_next_at=BigInteger(), behind_rule=Text())
