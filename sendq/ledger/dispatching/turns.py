"""Turns: a worker claims one, loads the jobs it may run, and begins them a few at a time.

A claim is a compare and set on the lane's fence: a message that the broker delivers twice claims nothing the second
time. Of the jobs that a claim loads, only as many as the lane may have on the wire at once are *begun*; the others
stay as they were, with nothing to undo if the worker dies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    Text,
    Uuid,
    bindparam,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import Executable

from sendq.clock import SECOND, Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import Lane
from sendq.facts.turns import Claimed
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching import lineage
from sendq.ledger.dispatching.lanes import CLOSED_TURN, lock, settle
from sendq.ledger.dispatching.lineage import Standing
from sendq.ledger.enqueue import NO_VAULT
from sendq.ledger.jobs import end_waiting
from sendq.ledger.sealed import hold_stuck, open_jobs
from sendq.rules.changed_fields import BITS
from sendq.rules.pace import pacer_of
from sendq.rules.preflight import FORMS, KEY_MAX_AGE, OPERATIONS, objection
from sendq.rules.rule_ids import OVERTAKEN
from sendq.rules.starts import first_to_begin, slots_of, start_soon
from sendq.rules.states import Event
from sendq.vault import Vault

# A job that must wait for an earlier one of the same object, which is itself not in sight, is looked at again then.
BEHIND_RECHECK = 1 * SECOND

# A job that this version cannot carry out is out of the way for this long. Whoever claims its lane then may be able to.
FOREIGN_RECHECK = 60 * SECOND


def claim(
    connection: Connection,
    turns: Iterable[tuple[UUID, int]],
    *,
    worker: UUID,
    now: Micros,
    jobs_each: int,
    key_max_age: Micros = KEY_MAX_AGE,
    vault: Vault = NO_VAULT,
    unreadable: Counter[str] | None = None,
    is_whole: Callable[[Standing], bool] = lambda found: found.shut_at is None,
) -> list[Claimed]:
    """Claim those of ``turns`` (lane, fence) that are still offered, and begin the first jobs of each.

    Jobs that may not go out any more (expired, or in doubt with a key too old to tell) end here. Those that ``vault``
    does not open wait (`sendq.ledger.sealed`), and are counted in ``unreadable`` by the name of their key; a turn that
    has no others is closed, and not among those given. Of a ledger that is not ``is_whole`` nothing is claimed: a
    message in the broker may be of a time that the ledger has forgotten.
    """
    fences = dict(turns)
    rows = lock(connection, fences)
    ours = {lane_id: row for lane_id, row in rows.items() if row.turn == "offered" and row.fence == fences[lane_id]}
    if not ours:
        return []
    found, streaks = _around(connection, {row.application for row in ours.values()})
    if not is_whole(found):
        return []
    loaded = _load(connection, ours, now=now, jobs_each=jobs_each)
    living = _without_those_that_end(connection, loaded, now=now, key_max_age=key_max_age)
    opened = open_jobs(connection, living, vault, now=now)
    if opened.missing:
        hold_stuck(connection, ours, opened.stuck, now=now)
        ours = {lane_id: row for lane_id, row in ours.items() if lane_id not in opened.stuck}
        if unreadable is not None:
            unreadable.update(opened.missing)
    jobs = opened.jobs
    pacers = {lane_id: pacer_of(row, now=now) for lane_id, row in ours.items()}
    slots = {lane_id: slots_of(row, jobs[lane_id], pacers[lane_id], now=now) for lane_id, row in ours.items()}
    starts = {
        lane_id: start_soon(first_to_begin(jobs[lane_id], slots[lane_id]), pacers[lane_id], now=now) for lane_id in ours
    }
    to_begin = [(job_id, row.fence) for lane_id, row in ours.items() for job_id in starts[lane_id]]
    begun = begin(connection, to_begin, now=now)
    update_rows(
        connection,
        schema.lane,
        [
            {
                "id": lane_id,
                "turn": "claimed",
                "turn_worker": worker,
                "turn_at": max(now, row.turn_at or 0),  # a claimer whose clock is behind must not make it look old
                "turn_slots": slots[lane_id],
                "used": pacers[lane_id].text,  # if nobody hears of this turn again, what it began is charged
            }
            for lane_id, row in ours.items()
        ],
    )
    return [
        Claimed(
            row,
            jobs[lane_id],
            frozenset(job.id for job in jobs[lane_id] if job.id in begun),
            worker,
            slots[lane_id],
            pacers[lane_id],
            starts[lane_id],
            max(streaks.get((row.application, row.provider), 0), streaks.get((row.application, "*"), 0)),
            loaded.foreign.get(lane_id, frozenset()),
        )
        for lane_id, row in ours.items()
    ]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The first jobs of each lane that may run now; which of them are overtaken; and, by lane, the operations that
    this version has never heard of.
    """

    jobs: Mapping[UUID, list[ClaimedJob]]
    overtaken: frozenset[UUID]
    foreign: Mapping[UUID, frozenset[str]]


def _without_those_that_end(
    connection: Connection, loaded: _Loaded, *, now: Micros, key_max_age: Micros
) -> Mapping[UUID, list[ClaimedJob]]:
    """End what may not begin any more: expired, cancelled, in doubt with too old a key, or overtaken."""
    jobs = [job for waiting in loaded.jobs.values() for job in waiting]
    ends = {job.id: event for job in jobs if (event := _objection(job, now=now, key_max_age=key_max_age)) is not None}
    overtaken = {job.id for job in jobs if loaded.overtaken and job.id in loaded.overtaken} - ends.keys()
    if not ends and not overtaken:
        return loaded.jobs
    end_waiting(connection, ends, now=now)
    end_waiting(connection, dict.fromkeys(overtaken, Event.CANCEL), now=now, rule=OVERTAKEN)
    over = ends.keys() | overtaken
    return {lane_id: [job for job in waiting if job.id not in over] for lane_id, waiting in loaded.jobs.items()}


def _objection(job: ClaimedJob, *, now: Micros, key_max_age: Micros) -> Event | None:
    """Why a loaded job does not begin. That its batch was cancelled counts before the last of its jobs was ended."""
    return Event.CANCEL if job.batch_cancel_at is not None else objection(job, now=now, key_max_age=key_max_age)


def _around(connection: Connection, applications: set[str]) -> tuple[Standing, dict[tuple[str, str], int]]:
    """How the ledger stands, and the holds since the last success by pair: one question, for each claim asks it."""
    pair, leader = schema.pair.c, schema.leader
    known = (leader.c[name] for name in lineage.COLUMNS)
    rows = connection.execute(
        select(pair.application, pair.provider, pair.streak, *known)
        .select_from(leader)
        .outerjoin(schema.pair, pair.application.in_(sorted(applications)))
        .where(leader.c.name == lineage.DISPATCHER)
    ).all()
    streaks = {(row.application, row.provider): row.streak for row in rows if row.provider is not None}
    return Standing(*rows[0][3:]), streaks


def begin(connection: Connection, jobs: Sequence[tuple[UUID, int]], *, now: Micros) -> set[UUID]:
    """Mark jobs as begun in the turn of the given fence; those that were (still) waiting, or begun in it already.

    A job that was cancelled in the meantime is not among them, and must not be sent.
    """
    if not jobs:
        return set()
    ordered = sorted(jobs, key=lambda job: job[0].int)
    if connection.dialect.name == "postgresql":
        ids, fences = zip(*ordered, strict=True)
        found = connection.execute(_BEGIN_MANY, {"ids": list(ids), "fences": list(fences), "now": now})
        return set(found.scalars().all())
    begun: set[UUID] = set()
    for job_id, fence in ordered:
        begun.update(connection.execute(_BEGIN_ONE, {"id": job_id, "fence": fence, "now": now}).scalars())
    return begun


_BEGIN_SET = (
    "UPDATE sendq_job SET state = 'sending', begun_at = :now, key_at = coalesce(sendq_job.key_at, :now), turn = "
)
_BEGIN_ONE = (
    text(
        _BEGIN_SET + ":fence WHERE id = :id AND (state = 'queued' OR (state = 'sending' AND turn = :fence))"
        " RETURNING id"
    )
    .bindparams(bindparam("id", type_=Uuid()))
    .columns(id=Uuid())
)
_BEGIN_MANY = (
    text(
        _BEGIN_SET + "v.fence FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[])) AS v (id, fence)"
        # CASE, for a plain condition on the state tempts the planner to the index of waiting jobs, all of them, when
        # its statistics are from a time at which few waited.
        " WHERE sendq_job.id = v.id"
        " AND CASE sendq_job.state WHEN 'queued' THEN true WHEN 'sending' THEN sendq_job.turn = v.fence ELSE false END"
        " RETURNING sendq_job.id"
    )
    .bindparams(
        bindparam("ids", type_=ARRAY(Uuid())),
        bindparam("fences", type_=ARRAY(BigInteger)),
        bindparam("now", type_=BigInteger),
    )
    .columns(id=Uuid())
)


def give_back(connection: Connection, turns: Iterable[tuple[UUID, int]], *, now: Micros) -> Micros:
    """Close turns that were offered and not claimed; gives when the first of their lanes wants the next."""
    fences = dict(turns)
    rows = lock(connection, fences)
    unused = {
        lane_id: CLOSED_TURN for lane_id, row in rows.items() if row.turn == "offered" and row.fence == fences[lane_id]
    }
    return settle(connection, rows, unused, now=now)


# --- which jobs -------------------------------------------------------------------------------------------------------

# The columns that come from the job's own row.
_JOB = ClaimedJob._fields[: ClaimedJob._fields.index("rule") + 1]


def _load(connection: Connection, lanes: Mapping[UUID, Lane], *, now: Micros, jobs_each: int) -> _Loaded:
    """The first jobs of each lane that may run now, by priority, due time and arrival."""
    floors = ("high_floor", "normal_floor", "low_floor")
    if connection.dialect.name == "postgresql":
        columns: dict[str, Any] = {"lane": list(lanes)}
        columns |= {f"floor{p}": [getattr(row, name) for row in lanes.values()] for p, name in enumerate(floors)}
        rows = connection.execute(_load_of("postgresql"), columns | {"now": now, "each": jobs_each})
        found = [ClaimedJob._make(job) for job in rows]
    else:
        found = []
        for lane_id, row in lanes.items():
            values: dict[str, Any] = {f"floor{p}": getattr(row, name) for p, name in enumerate(floors)}
            values |= {"lane": lane_id, "now": now, "each": jobs_each}
            found += [ClaimedJob._make(job) for job in connection.execute(_load_of("sqlite"), values)]
    loaded: dict[UUID, list[ClaimedJob]] = {lane_id: [] for lane_id in lanes}
    foreign = [job for job in found if _is_foreign(job)]
    known = [job for job in found if not _is_foreign(job)] if foreign else found
    related = _related(connection, known)
    behind = _behind(known, related, now=now) | {job.id: now + FOREIGN_RECHECK for job in foreign}
    for job in sorted(known, key=lambda job: (job.priority, job.next_at, job.id.int)):
        # Most claims have none of these, and to look for an id in a dict is dear enough to be seen.
        if behind and job.id in behind:
            continue
        sender = related[job.id].sender_id if related and job.id in related else None
        loaded[job.lane_id].append(job if sender is None else job._replace(sender_id=sender))
    # Out of the way, or they would stand first in every scan of their lane, and make it look due when it is not.
    update_rows(connection, schema.job, [{"id": job_id, "next_at": at} for job_id, at in behind.items()])
    # The order first and then the cut, or the cut could leave out the earlier of two and keep the later one.
    ordered = {lane_id: _in_object_order(jobs, related)[:jobs_each] for lane_id, jobs in loaded.items()}
    return _Loaded(
        ordered,
        frozenset(job_id for job_id, row in related.items() if row.overtaken),
        {job.lane_id: frozenset(one.operation for one in foreign if one.lane_id == job.lane_id) for job in foreign},
    )


class _Related(NamedTuple):
    """How a job relates to others of its message or thread."""

    id: UUID
    sender_id: UUID | None  # the job that sent the message, if this one replaces its metadata
    overtaken: bool | None  # a later change of the same fields is made already
    behind: UUID | None  # the nearest earlier job that is not over
    behind_next_at: Micros | None


def _related(connection: Connection, jobs: Sequence[ClaimedJob]) -> dict[UUID, _Related]:
    """How those that change something stand to other jobs of the same message or thread. Sends ask for nothing."""
    ids = [job.id for job in jobs if job.object_id is not None]
    if not ids:
        return {}
    found = connection.execute(_related_of(connection.dialect.name), {"ids": ids})
    return {row[0]: _Related._make(row) for row in found}


def _is_foreign(job: ClaimedJob) -> bool:
    """Whether only a newer version knows what to do with it."""
    return job.operation not in OPERATIONS or job.form not in FORMS


def _behind(found: Sequence[ClaimedJob], related: Mapping[UUID, _Related], *, now: Micros) -> dict[UUID, Micros]:
    """The jobs that must wait for an earlier one of their object which this turn will not run, and until when."""
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
            waits_until[name] = max(before.behind_next_at or 0, now + BEHIND_RECHECK)
        if name in waits_until:  # and so do all that come after it, in sight or not
            behind[job.id] = waits_until[name]
    return behind


def _in_object_order(jobs: list[ClaimedJob], related: Mapping[UUID, _Related]) -> list[ClaimedJob]:
    """The jobs with those of one object in the order in which they were asked for, whatever their priority."""
    if not related or all(job.id not in related or related[job.id].behind is None for job in jobs):
        return jobs
    by_object: dict[str, list[ClaimedJob]] = {}
    for job in sorted(jobs, key=lambda job: (job.due_at, job.id)):
        if job.object_id is not None:
            by_object.setdefault(job.object_id, []).append(job)
    return [job if job.object_id is None else by_object[job.object_id].pop(0) for job in jobs]


@lru_cache
def _load_of(dialect: str) -> Executable:
    prefix = "v." if dialect == "postgresql" else ":"
    columns = ", ".join(_JOB)
    parts = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {columns} FROM sendq_job WHERE lane_id = {prefix}lane AND state = 'queued'"  # noqa: S608
        f" AND priority = {priority} AND next_at >= {prefix}floor{priority} AND next_at <= :now"
        f" ORDER BY next_at, id LIMIT :each) AS p{priority}"
        for priority in range(3)
    )
    selected = (
        "SELECT j.*, coalesce(p.body, b.body) AS body, coalesce(p.content_type, b.content_type) AS content_type,"
        " CASE WHEN p.job_id IS NOT NULL THEN p.cipher_key ELSE b.cipher_key END AS cipher_key,"
        " p.job_id IS NOT NULL AS own_body,"
        " p.length, b.target, b.hard, b.cancel_at AS batch_cancel_at, NULL AS sender_id"
    )
    joins = "LEFT JOIN sendq_payload AS p ON p.job_id = j.id LEFT JOIN sendq_batch AS b ON b.id = j.batch_id"
    if dialect == "postgresql":
        arrays = ", ".join(["CAST(:lane AS uuid[])"] + [f"CAST(:floor{p} AS bigint[])" for p in range(3)])
        source = f"FROM unnest({arrays}) AS v (lane, floor0, floor1, floor2) CROSS JOIN LATERAL ({parts}) AS j"
        binds: list[BindParameter[Any]] = [bindparam("lane", type_=ARRAY(Uuid()))]
        binds += [bindparam(f"floor{priority}", type_=ARRAY(BigInteger)) for priority in range(3)]
    else:
        source = f"FROM ({parts}) AS j"
        binds = [bindparam("lane", type_=Uuid())]
    types: dict[str, Any] = {name: schema.job.c[name].type for name in _JOB}
    types |= {
        "target": Text(),
        "hard": Boolean(),
        "batch_cancel_at": BigInteger(),
        "sender_id": Uuid(),
    }
    types |= {"body": LargeBinary(), "content_type": Text(), "length": BigInteger()}
    types |= {"cipher_key": Text(), "own_body": Boolean()}
    return text(f"{selected} {source} {joins}").bindparams(*binds).columns(**types)


@lru_cache
def _related_of(dialect: str) -> Executable:
    # The nearest earlier job of the same object that is not over yet; it must go first, or a late repeat of it
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
    # A job that a walk made stands where its call stood. What was asked for later of the same message, and concerns the
    # same fields, may be done by then; it must not be undone. (What waits still, waits behind it.)
    overtaken = (
        "CASE WHEN b.walk IS NOT NULL AND j.object_id IS NOT NULL THEN EXISTS (SELECT 1 FROM sendq_job AS n"
        " JOIN sendq_batch AS nb ON nb.id = n.batch_id WHERE n.lane_id = j.lane_id AND n.object_id = j.object_id"
        " AND n.state IN ('sent', 'sending') AND n.due_at > j.due_at AND (nb.fields & b.fields) <> 0) END"
    )
    these = "= ANY(:ids)" if dialect == "postgresql" else "IN :ids"
    statement = text(
        f"SELECT j.id, {sender} AS sender_id, {overtaken} AS overtaken, (SELECT o.id {before}) AS behind,"  # noqa: S608
        f" (SELECT o.next_at {before}) AS behind_next_at"
        f" FROM sendq_job AS j LEFT JOIN sendq_batch AS b ON b.id = j.batch_id WHERE j.id {these}"
    )
    if dialect == "postgresql":
        statement = statement.bindparams(bindparam("ids", type_=ARRAY(Uuid())))
    else:
        statement = statement.bindparams(bindparam("ids", type_=Uuid(), expanding=True))
    types: dict[str, Any] = {"id": Uuid(), "sender_id": Uuid(), "overtaken": Boolean()}
    return statement.columns(**types, behind=Uuid(), behind_next_at=BigInteger())
