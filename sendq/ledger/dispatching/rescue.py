"""Rescue: what lost workers and lost messages leave behind returns to the queue.

Only jobs that were *begun* can have gone out. They return with their key, so that the API recognises the repeat; the
other jobs of their turn are unchanged.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Uuid, and_, bindparam, literal_column, or_, select, text

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Attempt, Sent
from sendq.ids import new_id
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.delivery_status import apply_known
from sendq.ledger.dispatching.lanes import first_waiting, lock_changes, write_changes
from sendq.ledger.dispatching.windows import expire_later
from sendq.ledger.dispatching.workers import deregister
from sendq.ledger.enqueue import notify
from sendq.ledger.jobs import end_waiting, lock_jobs, store_changes
from sendq.ledger.reading.unapproved import given_up, not_waiting
from sendq.rules.expiry import expiry_in
from sendq.rules.job_change import after_loss
from sendq.rules.lane_change import LaneChange
from sendq.rules.pace import pacer_of
from sendq.rules.preflight import KEY_MAX_AGE, objection
from sendq.rules.rule_ids import DIED, NOT_APPROVED, STOPPED
from sendq.rules.states import Event, State

# Part of the text of a statement, or the database does not use the partial index of the state: SQLite never, and
# PostgreSQL not in a session that keeps plans.
_QUEUED: ColumnElement[str] = literal_column(f"'{State.QUEUED.value}'")
_SENDING: ColumnElement[str] = literal_column(f"'{State.SENDING.value}'")

ORPHANS_MOST = 100
UNKNOWN = "the worker ended while this call was begun; whether it went out is unknown"


@dataclass(frozen=True, slots=True)
class Buried:
    """What a dead worker left: the turns taken back, and the jobs that it had begun."""

    turns: int
    begun: int


def bury(
    connection: Connection, worker: UUID, *, now: Micros, died: bool = True, key_max_age: Micros = KEY_MAX_AGE
) -> Buried:
    """Take back all turns of a dead worker, and delete its row. A worker that stopped on purpose has not ``died``."""
    lanes = _lanes_of(connection, worker)
    begun = _take_back(connection, lanes, now=now, died=died, key_max_age=key_max_age)
    deregister(connection, worker)
    return Buried(turns=len(lanes), begun=begun)


def take_back_strays(
    connection: Connection,
    worker: UUID,
    *,
    in_flight: Container[tuple[UUID, int]],
    now: Micros,
    key_max_age: Micros = KEY_MAX_AGE,
) -> int:
    """Take back turns of a live worker that are not among those it is running (lane, fence); returns how many.

    The answer to a claim was lost, or a bug aborted the turn; jobs begun in it return like those of a dead worker.
    """
    lanes = _lanes_of(connection, worker)
    # Checked under lock: a turn that is not running now, and is open in the ledger, will never end by itself.
    strays = {lane_id: change for lane_id, change in lanes.items() if (lane_id, change.lane.fence) not in in_flight}
    _take_back(connection, strays, now=now, died=False, key_max_age=key_max_age)
    return len(strays)


def _lanes_of(connection: Connection, worker: UUID) -> dict[UUID, LaneChange]:
    """The lanes with a turn of this worker, locked."""
    table = schema.lane
    held = connection.execute(select(table.c.id).where(table.c.turn_worker == worker, table.c.turn.is_not(None)))
    lanes = lock_changes(connection, held.scalars().all())
    return {
        lane_id: change
        for lane_id, change in lanes.items()
        if change.lane.turn_worker == worker and change.lane.turn is not None
    }


def _take_back(
    connection: Connection,
    lanes: Mapping[UUID, LaneChange],
    *,
    now: Micros,
    died: bool,
    key_max_age: Micros,
) -> int:
    """Close the turns of these (locked) lanes; returns how many jobs were begun in them."""
    claimed = {lane_id: change for lane_id, change in lanes.items() if change.lane.turn_worker is not None}
    for lane_id, change in lanes.items():
        if lane_id in claimed:
            change.close_turn(used=_drained(change.lane, now=now))
        else:
            change.close_turn()
    begun = _begun_in(connection, claimed)
    _return_begun(connection, begun, lanes, now=now, died=died, key_max_age=key_max_age)
    notify(connection, at=write_changes(connection, lanes.values(), now=now))
    return len(begun)


def _drained(lane: Lane, *, now: Micros) -> str:
    """The used pace of a lane after a turn whose use is unknown."""
    pacer = pacer_of(lane, now=now)
    pacer.drain(now)
    return pacer.text


def take_back_orphans(
    connection: Connection, *, begun_before: Micros, now: Micros, key_max_age: Micros = KEY_MAX_AGE
) -> int:
    """Put jobs that were begun in a turn that is over back in the queue; returns how many there were.

    A turn ends after its outcomes are recorded, so there should be none, unless a worker could not record one (a bug).
    Such a job may have gone out, and returns like those of a dead worker.
    """
    job, lane = schema.job.c, schema.lane
    stray = connection.execute(
        select(job.id, job.lane_id)
        .join(lane, lane.c.id == job.lane_id)
        .where(job.state == _SENDING, job.begun_at < begun_before)
        .where(lane.c.turn.is_(None) | (lane.c.fence != job.turn))
        .limit(ORPHANS_MOST)
    ).all()
    if not stray:
        return 0
    lanes = lock_changes(connection, {row.lane_id for row in stray})
    jobs = lock_jobs(connection, [row.id for row in stray])
    orphans = {
        job_id: job
        for job_id, job in jobs.items()
        if job.state == State.SENDING and not _is_of(lanes[job.lane_id].lane, job.turn)
    }
    _return_begun(connection, orphans, lanes, now=now, died=False, key_max_age=key_max_age)
    notify(connection, at=write_changes(connection, lanes.values(), now=now))
    return len(orphans)


def _is_of(lane: Lane, fence: int | None) -> bool:
    """Whether the lane's open turn has this fence."""
    return lane.turn is not None and lane.fence == fence


def _begun_in(connection: Connection, lanes: Mapping[UUID, LaneChange]) -> dict[UUID, LockedJob]:
    job = schema.job
    ids = connection.execute(select(job.c.id).where(job.c.lane_id.in_(sorted(lanes)), job.c.state == _SENDING))
    jobs = lock_jobs(connection, ids.scalars().all()) if lanes else {}
    return {
        job_id: row
        for job_id, row in jobs.items()
        if row.state == State.SENDING and row.turn == lanes[row.lane_id].lane.fence
    }


def _return_begun(
    connection: Connection,
    begun: Mapping[UUID, LockedJob],
    lanes: Mapping[UUID, LaneChange],
    *,
    now: Micros,
    died: bool,
    key_max_age: Micros,
) -> None:
    rule = DIED if died else STOPPED
    changed, attempts = [], []
    for job in begun.values():
        change = after_loss(job, rule=rule, died=died, now=now, key_max_age=key_max_age)
        changed.append((job, {"id": job.id} | change))
        if change["state"] == State.QUEUED:
            lanes[job.lane_id].lower(job.priority, now)
        lane = lanes[job.lane_id].lane
        attempts.append(
            Attempt(
                new_id(),
                job.id,
                job.generation,
                lane.turn_worker if _is_of(lane, job.turn) else None,
                begun_at=job.begun_at or now,
                ended_at=now,
                status=None,
                rule=rule,
                route="retry",
                sent=Sent.MAYBE,
                error=UNKNOWN,
            )
        )
    store_changes(connection, changed, now=now)
    append_attempts(connection, attempts)
    apply_known(connection, begun.keys(), now=now)  # a report may have shown that it went out


_ANY = text(
    "SELECT renewed_at, unclaimed_since IS NOT NULL AS unclaimed,"
    " EXISTS (SELECT 1 FROM sendq_lane WHERE turn IS NOT NULL AND turn_at < :before) AS turns,"
    " EXISTS (SELECT 1 FROM sendq_job WHERE state = 'queued' AND expires_at IS NOT NULL AND expires_at <= :now)"
    " OR EXISTS (SELECT 1 FROM sendq_job WHERE state = 'queued' AND approve_by IS NOT NULL AND approved_at IS NULL"
    " AND approve_by <= :now) AS jobs"
    " FROM sendq_leader WHERE name = 'dispatcher'"
)


@dataclass(frozen=True, slots=True)
class Overdue:
    """Whether an open turn is overdue, whether a waiting job has expired or was not approved in time, and when the
    lease was last renewed.

    ``unclaimed``: the ledger says that no worker claims turns (`sendq.ledger.dispatching.broker`).
    """

    turns: bool
    jobs: bool
    renewed_at: Micros
    unclaimed: bool


def anything(connection: Connection, *, before: Micros, now: Micros) -> Overdue:
    """Whether a turn opened before ``before`` (by the leaders' clock) is still open, and the rest of `Overdue`."""
    # Not one of the constants, whose plans are kept: one that is made while few jobs wait reads all that do.
    found = connection.execute(_ANY, {"before": before, "now": now}).one()
    return Overdue(bool(found.turns), bool(found.jobs), found.renewed_at, bool(found.unclaimed))


def take_back_unclaimed(
    connection: Connection, *, offered_before: Micros, now: Micros, key_max_age: Micros = KEY_MAX_AGE
) -> int:
    """Close turns that no worker claimed: the broker lost their message, or no worker is running to read it.

    Also closes turns claimed by a worker that is already buried: it was frozen and presumed dead, woke up, and claimed
    them before its next beat could show it that. If it dies then, nothing else looks for its turns. It is unknown
    whether it has died, so no job is blamed.
    """
    table = schema.lane.c
    unclaimed = and_(table.turn == "offered", table.turn_worker.is_(None), table.turn_at < offered_before)
    alive = select(schema.worker.c.id)
    overdue = and_(table.turn == "claimed", table.turn_at < offered_before, table.turn_worker.not_in(alive))
    forgotten = set(connection.execute(select(table.turn_worker).where(overdue).distinct()).scalars())
    theirs = and_(table.turn == "claimed", table.turn_worker.in_(forgotten))
    stale = connection.execute(select(table.id, table.fence).where(or_(unclaimed, theirs))).all()
    fences = {row.id: row.fence for row in stale}
    lanes = {
        lane_id: change
        for lane_id, change in lock_changes(connection, fences).items()
        if change.lane.fence == fences[lane_id]
        and (change.lane.is_offered or (change.lane.is_claimed and change.lane.turn_worker in forgotten))
    }
    _take_back(connection, lanes, now=now, died=False, key_max_age=key_max_age)
    return len(lanes)


def expire(connection: Connection, *, now: Micros, limit: int, key_max_age: Micros = KEY_MAX_AGE) -> int:
    """End waiting jobs that have expired, in any lane, including closed ones, which get no turn.

    Those that wait for approval are for `give_up_unapproved`. The default expiry of one that has not been put off yet,
    because its lane is held, does not count its grant's window: it is moved instead, and others end the next time.
    """
    table, lane = schema.job, schema.lane.c
    over = connection.execute(
        select(table, lane.time_window.label("of_lane"))
        .outerjoin(schema.lane, lane.id == table.c.lane_id)
        .where(table.c.state == _QUEUED, table.c.expires_at <= now, not_waiting())
        .order_by(table.c.expires_at)
        .limit(limit)
    ).all()
    later = {job.id: at for job in over if (at := expiry_in(job.of_lane, job)) is not None and at > now}
    if later:  # others, if locked after these, would be locked out of order
        lock_jobs(connection, list(later))
        expire_later(connection, later)
        return 0
    events = {job.id: objection(job, now=now, key_max_age=key_max_age) for job in over}
    return len(end_waiting(connection, {job_id: event for job_id, event in events.items() if event}, now=now))


def give_up_unapproved(connection: Connection, *, now: Micros, limit: int) -> int:
    """Give up up to ``limit`` jobs that were not approved in time; returns how many."""
    table = schema.job.c
    these = given_up(now=now)
    ids = list(connection.execute(select(table.id).where(*these).order_by(table.approve_by).limit(limit)).scalars())
    lock_jobs(connection, ids)
    # Again, as they are now: one may have been approved or rescheduled while its lock was waited for.
    late = connection.execute(select(table.id).where(table.id.in_(ids), *these)).scalars()
    return len(end_waiting(connection, dict.fromkeys(late, Event.GIVE_UP), now=now, rule=NOT_APPROVED))


def doubt_open_keys(connection: Connection, *, now: Micros, limit: int) -> int:
    """Put up to ``limit`` waiting sends whose last outcome is unknown in doubt; for a clock that is behind.

    If they stayed in the queue, their keys would look young again once the clock has caught up.
    """
    table = schema.job.c
    waiting = select(table.id).where(table.state == _QUEUED, table.doubt_at.is_not(None), table.operation == "send")
    ids = connection.execute(waiting.order_by(table.id).limit(limit)).scalars()
    return len(end_waiting(connection, dict.fromkeys(ids, Event.DOUBT), now=now))


# Lanes with waiting jobs, one index probe for each: the safety net for lost wake rows.
_LANES_THAT_WAIT = (
    text(
        "WITH RECURSIVE walk (lane_id, step) AS ("
        " SELECT (SELECT j.lane_id FROM sendq_job AS j WHERE j.state = 'queued' AND j.lane_id > :after"
        "  ORDER BY j.lane_id LIMIT 1), 1"
        " UNION ALL"
        " SELECT (SELECT j.lane_id FROM sendq_job AS j WHERE j.state = 'queued' AND j.lane_id > walk.lane_id"
        "  ORDER BY j.lane_id LIMIT 1), step + 1 FROM walk WHERE walk.lane_id IS NOT NULL AND step < :limit"
        ") SELECT lane_id FROM walk WHERE lane_id IS NOT NULL"
    )
    .bindparams(bindparam("after", type_=Uuid()))
    .columns(lane_id=Uuid())
)


def sweep(connection: Connection, *, after: UUID, limit: int, now: Micros) -> tuple[UUID | None, int]:
    """Wake lanes that have waiting jobs but no next turn; looks at up to ``limit`` lanes after an id.

    Returns where to continue (None: the end was reached) and how many lanes were asleep. More than zero is a bug or a
    lost write, and worth an alert. A lane whose wake row has not been processed yet does not count.
    """
    ids = connection.execute(_LANES_THAT_WAIT, {"after": after, "limit": limit}).scalars().all()
    idle = {
        lane_id: change
        for lane_id, change in lock_changes(connection, ids).items()
        if change.lane.next_at is None and change.lane.turn is None and not change.lane.is_closed
    }
    # Checked under lock: its jobs may have been served since the query above.
    waiting = first_waiting(connection, dict.fromkeys(idle, (0, 0, 0))) if idle else {}
    asleep = {lane_id: change for lane_id, change in idle.items() if waiting[lane_id] != (None, None, None)}
    for change in asleep.values():
        change.scan_all()
    notify(connection, at=write_changes(connection, asleep.values(), now=now))
    # Checked under lock: a dispatcher that processes one has either woken the lane by now or waits for its lock.
    wake = schema.wake.c.lane_id
    early = set(connection.execute(select(wake).where(wake.in_(sorted(asleep)))).scalars()) if asleep else set()
    return (ids[-1] if len(ids) == limit else None), len(asleep.keys() - early)
