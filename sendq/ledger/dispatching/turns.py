"""Turns: a worker claims one, loads the jobs it may run, and begins them a few at a time.

A claim is a compare and set on the lane's fence: a message that the broker delivers twice claims nothing the second
time. Of the jobs that a claim loads, only as many as the lane may have on the wire at once are *begun*; the others
are unchanged, so that there is nothing to undo if the worker dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Integer,
    Text,
    Uuid,
    any_,
    bindparam,
    exists,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.base import Executable

from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import FLOORS, WHOLE_APPLICATION, Lane
from sendq.facts.turns import Claimed, Unopened
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import POSTGRESQL, update_rows
from sendq.ledger.dispatching import lineage
from sendq.ledger.dispatching.budgets import NO_BUDGETS, reserve
from sendq.ledger.dispatching.lanes import lock
from sendq.ledger.dispatching.lineage import Standing
from sendq.ledger.dispatching.loading import (
    Loaded,
    first_jobs,
    first_jobs_with,
    is_foreign,
    load_jobs,
    place_in_queue,
)
from sendq.ledger.dispatching.tag_holds import are_held, with_tags
from sendq.ledger.dispatching.windows import outside
from sendq.ledger.enqueue import NO_VAULT
from sendq.ledger.jobs import end_waiting, lock_in_order, lock_jobs, unchanged
from sendq.ledger.sealed import hold_stuck, open_at_once, open_jobs
from sendq.rules.budgets import Budget, Budgets
from sendq.rules.job_change import cancel_event
from sendq.rules.pace import Pacer, pacer_of
from sendq.rules.preflight import KEY_MAX_AGE, objection
from sendq.rules.rule_ids import AFTER, OVERTAKEN
from sendq.rules.starts import first_to_begin, slots_of, start_soon
from sendq.rules.states import Event
from sendq.vault import Vault

if TYPE_CHECKING:
    from sendq.ledger.dispatching.suppression import Suppression


def claim(
    connection: Connection,
    turns: Iterable[tuple[UUID, int]],
    *,
    worker: UUID,
    now: Micros,
    jobs_each: int,
    key_max_age: Micros = KEY_MAX_AGE,
    vault: Vault = NO_VAULT,
    unopened: Unopened | None = None,
    budgets: Budgets = NO_BUDGETS,
    is_whole: Callable[[Standing], bool] = lambda found: found.may_be_claimed,
) -> list[Claimed]:
    """Claim those of ``turns`` (lane, fence) that are still offered, and begin the first jobs of each.

    Jobs that must not go out any more (expired, in doubt with a key too old for a safe repeat, to a recipient who was
    suppressed since) end here. Jobs that ``vault`` cannot open wait or end (`sendq.ledger.sealed`), and are added to
    ``unopened``; a turn that only waits is closed and not returned. In a ledger that is not ``is_whole`` nothing is
    claimed: a message in the broker may be from a time that the ledger has lost. Sends that are over one of the
    ``budgets`` wait.
    """
    fences = dict(turns)
    rows = lock(connection, fences)
    ours = {lane_id: row for lane_id, row in rows.items() if row.is_offered and row.fence == fences[lane_id]}
    if not ours:
        return []
    found, streaks, suppression = _around(connection, {row.application for row in ours.values()}, vault)
    if not is_whole(found):
        return []
    loaded = load_jobs(connection, ours, now=now, jobs_each=jobs_each, budgets=budgets)
    living = _without_those_that_end(connection, loaded, now=now, key_max_age=key_max_age)
    opened = open_jobs(connection, ours, living, vault, jobs_each=jobs_each, now=now, suppression=suppression)
    if opened.unopened:
        hold_stuck(connection, ours, opened, now=now)
        ours = {lane_id: row for lane_id, row in ours.items() if lane_id not in opened.stuck}
        if unopened is not None:
            unopened.add(opened.unopened)
    counted, jobs = _reserve(connection, ours, opened.jobs, budgets, loaded.over, now=now)
    return _claimed(connection, ours, jobs, streaks, worker=worker, now=now, foreign=loaded.foreign, budgets=counted)


def claim_at_once(
    connection: Connection,
    offered: Sequence[Lane],
    *,
    worker: UUID,
    now: Micros,
    jobs_each: int,
    key_max_age: Micros = KEY_MAX_AGE,
    vault: Vault = NO_VAULT,
    budgets: Budgets = NO_BUDGETS,
    is_whole: Callable[[Standing], bool] = lambda found: found.may_be_claimed,
) -> list[Claimed]:
    """Open turns and `claim` them in one step: all of them, or none. ``offered``: lanes that this transaction has
    locked and that have no turn, each with the turn that it gets (`sendq.ledger.dispatching.offers.opened`).

    None are claimed, and nothing is changed, if one of the jobs needs more than a look at itself: it must not begin any
    more, one of the ``budgets`` counts it, its tag is held, its window is closed, it waits for another job, a recipient
    is suppressed, its order among others of its object matters, or this version or vault cannot read it. Those are for
    `claim`. It waits for no lock.

    Raises:
        sqlalchemy.exc.OperationalError: another transaction has locked one of the jobs (PostgreSQL's 55P03).
    """
    if not offered:
        return []
    ours = {lane.id: lane for lane in offered}
    found_jobs, (found, streaks, suppression) = _jobs_and_around(connection, ours, vault, now=now, jobs_each=jobs_each)
    if not is_whole(found):
        return []
    jobs: dict[UUID, list[ClaimedJob]] = {lane_id: [] for lane_id in ours}
    if budgets and any(budgets.of(ours[job.lane_id].application, job) for job in found_jobs):
        return []
    tagged = with_tags(found_jobs)
    if tagged and are_held(connection, ours, tagged, now=now):
        return []
    if outside(ours, found_jobs, now=now):
        return []
    for job in sorted(found_jobs, key=place_in_queue):
        if job.object_id is not None or is_foreign(job) or job.rule == AFTER:
            return []
        if _objection(job, now=now, key_max_age=key_max_age):
            return []
        jobs[job.lane_id].append(job)
    first = {lane_id: some[:jobs_each] for lane_id, some in jobs.items()}
    opened = open_at_once(connection, ours, first, vault, suppression=suppression)
    if opened is None:
        return []
    return _claimed(connection, ours, opened, streaks, worker=worker, now=now, waits=False)


def _claimed(
    connection: Connection,
    ours: Mapping[UUID, Lane],
    jobs: Mapping[UUID, list[ClaimedJob]],
    streaks: Mapping[tuple[str, str], int],
    *,
    worker: UUID,
    now: Micros,
    foreign: Mapping[UUID, frozenset[str]] | None = None,
    budgets: Mapping[UUID, tuple[Budget, ...]] | None = None,
    waits: bool = True,
) -> list[Claimed]:
    """Begin the first of these jobs, and claim the open turns of their (locked) lanes."""
    pacers, slots, starts = _starts(ours, jobs, now=now)
    loaded = {job.id: (job.generation, job.content_version) for lane_id in ours for job in jobs[lane_id]}
    to_begin = [(job_id, row.fence, *loaded[job_id]) for lane_id, row in ours.items() for job_id in starts[lane_id]]
    if waits:
        lock_in_order(connection, [job_id for job_id, *_ in to_begin])
    lanes = [
        {
            "id": lane_id,
            "fence": row.fence,
            "turn": "claimed",
            "turn_worker": worker,
            "turn_at": max(now, row.turn_at or 0),  # a worker whose clock is behind must not make it look old
            "turn_slots": slots[lane_id],
            "used": pacers[lane_id].text,  # if the turn is lost, the jobs that it began are charged
            "next_at": row.next_at,  # this and the floors: a lane that was woken just now is first written here
            **dict(zip(FLOORS, row.floors, strict=True)),
        }
        for lane_id, row in ours.items()
    ]
    begun = _begin_and_claim(connection, to_begin, lanes, now=now, waits=waits)
    return [
        Claimed(
            row,
            jobs[lane_id],
            frozenset(job.id for job in jobs[lane_id] if job.id in begun),
            worker,
            slots[lane_id],
            pacers[lane_id],
            starts[lane_id],
            max(streaks.get((row.application, row.provider), 0), streaks.get((row.application, WHOLE_APPLICATION), 0)),
            (foreign or {}).get(lane_id, frozenset()),
            {job.id: budgets[job.id] for job in jobs[lane_id] if job.id in budgets} if budgets else {},
        )
        for lane_id, row in ours.items()
    ]


def _starts(
    ours: Mapping[UUID, Lane], jobs: Mapping[UUID, list[ClaimedJob]], *, now: Micros
) -> tuple[dict[UUID, Pacer], dict[UUID, int], dict[UUID, dict[UUID, Micros]]]:
    """By lane: its pacer, charged with the jobs that begin first; its calls at once; when each of these jobs starts."""
    pacers = {lane_id: pacer_of(row, now=now) for lane_id, row in ours.items()}
    slots = {lane_id: slots_of(row, jobs[lane_id], pacers[lane_id], now=now) for lane_id, row in ours.items()}
    starts = {
        lane_id: start_soon(first_to_begin(jobs[lane_id], slots[lane_id]), pacers[lane_id], now=now) for lane_id in ours
    }
    return pacers, slots, starts


def _reserve(
    connection: Connection,
    ours: Mapping[UUID, Lane],
    jobs: Mapping[UUID, list[ClaimedJob]],
    budgets: Budgets,
    over: frozenset[Budget],
    *,
    now: Micros,
) -> tuple[Mapping[UUID, tuple[Budget, ...]], Mapping[UUID, list[ClaimedJob]]]:
    """Count the jobs that begin first in their budgets; returns all jobs that budgets count, and those that may go on.

    If one is refused, the turns get none that is counted and was not reserved. Those stay as they are, and the next
    claim puts them off.
    """
    if not budgets:
        return {}, jobs
    all_jobs = [(row.application, job) for lane_id, row in ours.items() for job in jobs[lane_id]]
    counted = {job.id: mine for application, job in all_jobs if (mine := budgets.of(application, job))}
    if not counted:
        reserve(connection, [], now=now, over=over)
        return {}, jobs
    # All of them, and before the budgets: which of them begin is only known then.
    locked = lock_jobs(connection, [job.id for _, job in all_jobs])
    *_, starts = _starts(ours, jobs, now=now)
    loaded = {job.id: (job.generation, job.content_version) for _, job in all_jobs if job.id in counted}
    may_begin = unchanged(connection, locked, loaded, now=now)
    wanted = [(job_id, counted[job_id]) for some in starts.values() for job_id in some if job_id in may_begin]
    refused = reserve(connection, wanted, now=now, over=over)
    if not refused:
        return counted, jobs
    out = counted.keys() - {job_id for job_id, _ in wanted} | refused
    return counted, {lane_id: [job for job in some if job.id not in out] for lane_id, some in jobs.items()}


def _without_those_that_end(
    connection: Connection, loaded: Loaded, *, now: Micros, key_max_age: Micros
) -> Mapping[UUID, list[ClaimedJob]]:
    """End jobs that must not begin any more: expired, cancelled, in doubt with too old a key, or overtaken."""
    jobs = [job for waiting in loaded.jobs.values() for job in waiting]
    ends = {job.id: event for job in jobs if (event := _objection(job, now=now, key_max_age=key_max_age)) is not None}
    overtaken = {job.id for job in jobs if loaded.overtaken and job.id in loaded.overtaken} - ends.keys()
    if not ends and not overtaken:
        return loaded.jobs
    lock_in_order(connection, [job.id for job in jobs])
    end_waiting(connection, ends, now=now)
    end_waiting(connection, dict.fromkeys(overtaken, Event.CANCEL), now=now, rule=OVERTAKEN)
    over = ends.keys() | overtaken
    return {lane_id: [job for job in waiting if job.id not in over] for lane_id, waiting in loaded.jobs.items()}


def _objection(job: ClaimedJob, *, now: Micros, key_max_age: Micros) -> Event | None:
    """Why a loaded job does not begin. A cancelled batch counts at once, before all of its jobs have been ended."""
    if job.batch_cancel_at is not None:
        return cancel_event(job.operation, may_have_gone_out=job.doubt_at is not None)
    return objection(job, now=now, key_max_age=key_max_age)


Around = tuple[Standing, dict[tuple[str, str], int], "Suppression | None"]


def _around(connection: Connection, applications: set[str], vault: Vault) -> Around:
    """The state of the ledger, each pair's holds since its last success, and the check of suppressed recipients if one
    of the applications has any: one query, as each claim needs all of it.
    """
    statement = _around_of(connection.dialect.name, lineage.columns(connection))
    rows = constant.rows(connection, statement, {"applications": sorted(applications)})
    streaks = {(application, provider): streak for application, provider, streak, *_ in rows if provider is not None}
    with_list = {row[0] for row in rows if row[-1]}
    return Standing(*rows[0][3:-1]), streaks, _suppression(connection, vault, with_list)


def _suppression(connection: Connection, vault: Vault, with_list: set[str]) -> Suppression | None:
    if not with_list:
        return None
    # It reads messages and addresses, whose packages a worker without a suppression list does not load.
    from sendq.ledger.dispatching.suppression import Suppression

    return Suppression(connection, vault, with_list)


def _jobs_and_around(
    connection: Connection, lanes: Mapping[UUID, Lane], vault: Vault, *, now: Micros, jobs_each: int
) -> tuple[list[ClaimedJob], Around]:
    """The first jobs of lanes, and `_around`: on PostgreSQL in one statement, which for a lone job costs half."""
    if connection.dialect.name != "postgresql":
        around = _around(connection, {lane.application for lane in lanes.values()}, vault)
        return first_jobs(connection, lanes, now=now, jobs_each=jobs_each), around
    beside = _beside(lineage.columns(connection))
    jobs, rows = first_jobs_with(connection, lanes, beside, now=now, jobs_each=jobs_each)
    streaks = {(application, provider): streak for application, provider, streak, *_ in rows}
    with_list = {application for application, _, _, has_list, *_ in rows if has_list}
    return jobs, (Standing(*rows[0][4:]), streaks, _suppression(connection, vault, with_list))


@lru_cache
def _beside(known: tuple[ColumnElement[Any], ...]) -> str:
    """What `_around` finds, for `first_jobs_with`; the streak is the higher one of the pair and its application."""
    of_leader = [f"{column.compile(dialect=POSTGRESQL)} AS around{place}" for place, column in enumerate(known)]
    streak = (
        "(SELECT coalesce(max(streak), 0) FROM sendq_pair WHERE application = v.application"  # noqa: S608
        f" AND provider IN (v.provider, '{WHOLE_APPLICATION}')) AS streak"
    )
    has_list = "EXISTS (SELECT 1 FROM sendq_suppression WHERE application = v.application) AS has_list"
    return ", ".join(("v.application", "v.provider", streak, has_list, *of_leader))


@lru_cache
def _around_of(dialect: str, known: tuple[ColumnElement[Any], ...]) -> Executable:
    pair, leader, suppression = schema.pair.c, schema.leader, schema.suppression.c
    if dialect == "postgresql":
        of_these = pair.application == any_(bindparam("applications", type_=ARRAY(Text)))
    else:
        of_these = pair.application.in_(bindparam("applications", expanding=True, type_=Text))
    has_list = exists().where(suppression.application == pair.application)
    return (
        select(pair.application, pair.provider, pair.streak, *known, has_list)
        .select_from(leader)
        .outerjoin(schema.pair, of_these)
        .where(leader.c.name == lineage.DISPATCHER)
    )


# A job that is to begin: its id, the fence of its turn, and the generation and content version that it was loaded with.
Beginning = tuple[UUID, int, int, int]


def begin(connection: Connection, jobs: Sequence[Beginning], *, now: Micros) -> set[UUID]:
    """Mark jobs as begun in the turn of the given fence; returns those that were due, or already begun in it.

    A job that has been cancelled, held or put off since it was loaded, or whose message has been replaced, is not among
    them, and must not be sent. Several jobs are locked already.
    """
    if not jobs:
        return set()
    if connection.dialect.name == "postgresql":
        return {row[0] for row in constant.rows(connection, _begin_many(), _in_columns(jobs) | {"now": now})}
    begun: set[UUID] = set()
    for job_id, fence, generation, content in sorted(jobs, key=lambda job: job[0].int):
        values = {"id": job_id, "fence": fence, "generation": generation, "content": content, "now": now}
        begun.update(connection.execute(_BEGIN_ONE, values).scalars())
    return begun


def _in_columns(jobs: Sequence[Beginning]) -> dict[str, list[Any]]:
    ordered = sorted(jobs, key=lambda job: job[0].int)
    columns = zip(*ordered, strict=True) if ordered else ((), (), (), ())
    return dict(zip(("ids", "fences", "generations", "contents"), map(list, columns), strict=True))


def _begin_and_claim(
    connection: Connection,
    jobs: Sequence[Beginning],
    lanes: Sequence[Mapping[str, Any]],
    *,
    now: Micros,
    waits: bool,
) -> set[UUID]:
    """`begin` jobs, and write the claimed turns of their locked lanes: on PostgreSQL in one statement.

    If it does not ``wait`` for other transactions, a lock of a job raises the driver's error (55P03).
    """
    if not lanes:
        return set()
    if connection.dialect.name == "postgresql":
        values = {f"lane_{name}": [lane[name] for lane in lanes] for name in _CLAIMED_LANE}
        values |= _in_columns(jobs) | {"now": now, "worker": lanes[0]["turn_worker"]}
        return {row[0] for row in constant.rows(connection, _begin_many(claims=True, waits=waits), values)}
    begun = begin(connection, jobs, now=now)
    update_rows(connection, schema.lane, lanes)
    return begun


# What differs between the lanes of a claim.
_CLAIMED_LANE = ("id", "fence", "turn_at", "turn_slots", "used", "next_at", *FLOORS)
_BEGIN_SET = (
    "UPDATE sendq_job SET state = 'sending', begun_at = :now, key_at = coalesce(sendq_job.key_at, :now), turn = "
)
_BEGIN_ONE = (
    text(
        _BEGIN_SET + ":fence WHERE id = :id"
        " AND ((state = 'queued' AND next_at <= :now AND generation = :generation AND content_version = :content)"
        " OR (state = 'sending' AND turn = :fence))"
        " RETURNING id"
    )
    .bindparams(bindparam("id", type_=Uuid()))
    .columns(id=Uuid())
)


@lru_cache
def _begin_many(*, claims: bool = False, waits: bool = True) -> Executable:
    before: list[str] = []
    binds: list[BindParameter[Any]] = [
        bindparam("ids", type_=ARRAY(Uuid())),
        bindparam("fences", type_=ARRAY(BigInteger)),
        bindparam("generations", type_=ARRAY(Integer)),
        bindparam("contents", type_=ARRAY(Integer)),
    ]
    if claims:
        kinds = {name: schema.lane.c[name].type for name in _CLAIMED_LANE}
        arrays = ", ".join(f"CAST(:lane_{name} AS {kind.compile(POSTGRESQL)}[])" for name, kind in kinds.items())
        changes = ", ".join(f"{name} = c.{name}" for name in _CLAIMED_LANE[1:])
        before.append(
            f"claimed AS (UPDATE sendq_lane AS t SET turn = 'claimed', turn_worker = :worker, {changes}"  # noqa: S608
            f" FROM unnest({arrays}) AS c ({', '.join(_CLAIMED_LANE)}) WHERE t.id = c.id)"
        )
        binds += [bindparam(f"lane_{name}", type_=ARRAY(kind)) for name, kind in kinds.items()]
        binds.append(bindparam("worker", type_=Uuid()))
    if not waits:
        before.append("l AS MATERIALIZED (SELECT id FROM sendq_job WHERE id = ANY(:ids) ORDER BY id FOR UPDATE NOWAIT)")
    statement = (
        (f"WITH {', '.join(before)} " if before else "")
        + _BEGIN_SET
        + "v.fence FROM unnest(CAST(:ids AS uuid[]), CAST(:fences AS bigint[]), CAST(:generations AS integer[]),"
        + " CAST(:contents AS integer[])) AS v (id, fence, generation, content)"
        + ("" if waits else " JOIN l ON l.id = v.id")
        # CASE, because with a plain condition on the state the planner reads the whole index of waiting jobs if its
        # statistics are from a time when few waited.
        + " WHERE sendq_job.id = v.id"
        " AND CASE sendq_job.state WHEN 'queued' THEN sendq_job.next_at <= :now AND sendq_job.generation = v.generation"
        " AND sendq_job.content_version = v.content"
        " WHEN 'sending' THEN sendq_job.turn = v.fence ELSE false END"
        " RETURNING sendq_job.id"
    )
    return text(statement).bindparams(*binds, bindparam("now", type_=BigInteger)).columns(id=Uuid())
