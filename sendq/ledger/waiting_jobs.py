"""Changing jobs that wait: another due time or priority, a hold, a release, an approval; of one, or of a batch's.

A job is locked, and changed only if it still waits (`sendq.rules.waiting_job.refusal`). A worker that has loaded it for
its turn begins it only if it is still due (`sendq.ledger.dispatching.turns.begin`), so that a change that is committed
before the job begins always counts. Lanes are not locked: they learn about earlier times through wake rows, as with new
jobs.

A batch takes one transaction for its own row, which counts for the jobs that its walk makes later, and one for each
few hundred of its jobs; in a caller's transaction all of it is one. A reschedule, a priority, a hold or a release of a
batch stops when a later one has taken its place: that one changes the rest of the jobs. An approval and a rejection go
on: of two, the one that comes to a job first decides about it. A hold of a batch also counts for its jobs that return
to the queue (`sendq.ledger.jobs.store_changes`).

Jobs are locked before their batch, as by a record and a retry.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, func, select, update

from sendq.clock import Micros, moment
from sendq.errors import InvalidArgument, NotWaiting, Problem
from sendq.ids import new_id
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.dispatching.parked import reschedule_parked
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import end_waiting
from sendq.ledger.reading import lookup, owner
from sendq.ledger.reading.seen_contents import seen_contents, was_seen
from sendq.ledger.reading.unapproved import decidable
from sendq.rules.rule_ids import BY_HAND, REJECTED
from sendq.rules.states import FINAL, Event, State
from sendq.rules.waiting_job import DECISIONS, Change, ChangeKind, after_change, is_parked, other_content, refusal

# Jobs in one transaction: few enough that a row stays locked for milliseconds only.
STEP = 500

_FIRST = UUID(int=0)

_ENDED = tuple(state.value for state in FINAL)


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes it, and why."""

    by: str
    reason: str | None

    def reason_with(self, detail: str | None) -> str | None:
        """The reason for an event that also has a detail of the change, which comes first; None: there is neither."""
        return ": ".join(part for part in (detail, self.reason) if part) or None


@dataclass(frozen=True, slots=True)
class Changing:
    """How far a change is. ``number``: jobs changed so far; ``left``: jobs of the batch that no longer wait or whose
    outcome is unknown; ``after``: where the next part begins, None: that was all; ``seen``: what an approval or
    rejection is about (`sendq.ledger.reading.seen_contents`); ``grants``: patterns of the only grants whose jobs are
    changed, None: any.
    """

    number: int
    left: int = 0
    batch_id: UUID | None = None
    event_id: UUID | None = None
    after: UUID | None = None
    seen: Mapping[UUID, int] = field(default_factory=dict)
    grants: Collection[str] | None = None


def start(
    connection: Connection,
    change: Change,
    author: Author,
    *,
    job_id: UUID | None,
    batch_id: UUID | None,
    now: Micros,
    dry_run: bool = False,
    seen_at: Micros | None = None,
    grants: Collection[str] | None = None,
) -> Changing:
    """Change a job, or begin with a batch: the rest of it is for `go_on`.

    An approval or rejection of a batch leaves jobs alone whose message is replaced after ``seen_at`` (None: now).
    ``grants``: patterns of the only grants that the job or batch may have. Jobs of other grants that are added to the
    batch afterwards are left alone.

    Raises:
        NotFound: there is no such job or batch, or it has other grants.
        NotWaiting: it cannot be changed any more.
        InvalidArgument: it would expire before it is due, or a content version is given for a batch.
    """
    change = replace(change, at=now)
    if batch_id is not None:
        if change.content is not None:
            raise InvalidArgument([Problem("content", "is given for a batch", "leave it out, or name one job")])
        return _start_batch(
            connection, batch_id, change, author, now=now, dry_run=dry_run, seen_at=seen_at, grants=grants
        )
    assert job_id is not None
    row = _of_grants(connection, _locked(connection, schema.job.c.id == job_id), grants).pop(job_id, None)
    if row is None:
        raise lookup.no_such_job(job_id)
    if (because := refusal(row, change)) is not None:
        version = row.content_version if because == other_content(row, change.content) else None
        raise NotWaiting("job", str(job_id), row.state, because, content_version=version)
    if change.is_too_late(row):
        raise _too_late(change.expiry_of(row))
    if dry_run:
        return Changing(int(bool(after_change(row, change))))
    number = _apply(connection, [row], change)
    if number:
        _note(connection, [row], change, author, now=now)
    return Changing(number)


def decide_some(
    connection: Connection,
    ids: Sequence[UUID],
    decision: Change,
    author: Author,
    *,
    seen: Mapping[UUID, int],
    act: UUID,
    now: Micros,
) -> int:
    """Approve or reject those of these jobs that wait for approval and have the content that was seen; returns how
    many. ``act``: the act's event.
    """
    decision = replace(decision, at=now)
    locked = _locked(connection, schema.job.c.id.in_(ids)).values()
    rows = [row for row in locked if refusal(row, decision) is None and was_seen(row, seen)]
    number = _apply(connection, rows, decision)
    _note(connection, rows, decision, author, now=now, act=act)
    return number


def _note(
    connection: Connection, rows: Sequence[Row[Any]], change: Change, author: Author, *, now: Micros, **more: Any
) -> None:
    """Write an event for each of these jobs, which are from `_locked`."""
    lanes = _lanes_of(connection, rows)
    parts = [
        events.event(
            change.kind.value,
            at=now,
            job_id=row.id,
            batch_id=row.batch_id,
            **_fields(change, author, row),
            **lanes[row.lane_id],
            **more,
        )
        for row in rows
    ]
    events.append_all(connection, parts)


def go_on(connection: Connection, change: Change, so_far: Changing, *, now: Micros) -> Changing:
    """Change the next few hundred jobs of a batch, unless a later change of it has taken the place of this one."""
    job = schema.job.c
    assert so_far.batch_id is not None
    assert so_far.after is not None
    change = replace(change, at=now)
    ids = (
        connection.execute(
            select(job.id).where(job.batch_id == so_far.batch_id, job.id > so_far.after).order_by(job.id).limit(STEP)
        )
        .scalars()
        .all()
    )
    # Those on the wire or in doubt too: they may return to the queue in a transaction that did not see the hold.
    rows = _locked(connection, job.id.in_(ids), job.state.not_in(_ENDED)) if ids else {}
    rows = _of_grants(connection, rows, so_far.grants)
    if _is_overtaken(connection, so_far.batch_id, change, now=now):
        return replace(so_far, after=None)
    free = [row for row in rows.values() if refusal(row, change) is None and not change.is_too_late(row)]
    if change.kind in DECISIONS:
        free = [row for row in free if was_seen(row, so_far.seen)]
    number = _apply(connection, free, change, first=so_far.number)
    if change.kind is ChangeKind.RELEASE:  # or they would be held for ever once it is known that they were not sent
        _apply(connection, [row for row in rows.values() if row.state == State.IN_DOUBT.value], change)
    if number:
        table = schema.event.c
        more = update(schema.event).where(table.id == so_far.event_id).values(number=table.number + number)
        connection.execute(more)
    return replace(
        so_far,
        number=so_far.number + number,
        left=so_far.left + len(ids) - len(free),
        after=ids[-1] if len(ids) == STEP else None,
    )


def all_at_once(
    connection: Connection,
    change: Change,
    author: Author,
    *,
    job_id: UUID | None,
    batch_id: UUID | None,
    now: Micros,
    grants: Collection[str] | None = None,
) -> Changing:
    """`start`, and all parts that follow, in one transaction."""
    if batch_id is not None and connection.dialect.name == "postgresql":
        _lock_batch_after_jobs(connection, batch_id)
    done = start(connection, change, author, job_id=job_id, batch_id=batch_id, now=now, grants=grants)
    while done.after is not None:
        done = go_on(connection, change, done, now=now)
    return done


def _lock_batch_after_jobs(connection: Connection, batch_id: UUID) -> None:
    """Lock the unfinished jobs of a batch, and then the batch, in the order of a record of its walk.

    The walk makes jobs meanwhile; if there are new ones, the batch is let go of until they are locked too.
    """
    job, batch = schema.job.c, schema.batch.c
    unfinished = select(job.id).where(job.batch_id == batch_id, job.state.not_in(_ENDED)).order_by(job.id)
    locked: set[UUID] = set()
    while True:
        locked.update(connection.execute(unfinished.with_for_update()).scalars())
        with connection.begin_nested() as step:
            connection.execute(select(batch.id).where(batch.id == batch_id).with_for_update()).all()
            if locked.issuperset(connection.execute(unfinished).scalars()):
                return
            step.rollback()


def _is_overtaken(connection: Connection, batch_id: UUID, change: Change, *, now: Micros) -> bool:
    """Whether a later change of the same kind is what the batch asks for now, or the batch is gone."""
    table = schema.batch
    # FOR KEY SHARE: a change that begins now waits for this part.
    this = select(table).where(table.c.id == batch_id).with_for_update(read=True, key_share=True)
    batch = connection.execute(this).first()
    if batch is None:
        return True
    return any(getattr(batch, name) != value for name, value in _of_batch(batch, change, now=now).items())


def _start_batch(
    connection: Connection,
    batch_id: UUID,
    change: Change,
    author: Author,
    *,
    now: Micros,
    dry_run: bool,
    seen_at: Micros | None,
    grants: Collection[str] | None,
) -> Changing:
    table = schema.batch
    batch = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).first()
    if batch is None:
        raise lookup.no_such_batch(batch_id)
    owner.require_grants(connection, batch_id, grants)
    if batch.finished_at is not None or batch.cancel_at is not None:
        cancelled = batch.cancel_at is not None
        because = "none of its jobs waits any more"
        raise NotWaiting("batch", str(batch_id), "cancelled" if cancelled else "finished", because)
    job = schema.job.c
    waiting: tuple[ColumnElement[bool], ...] = (job.batch_id == batch_id, job.state == State.QUEUED.value)
    if change.kind is ChangeKind.RESCHEDULE and change.keeps_expiry:
        earliest = connection.execute(select(func.min(job.expires_at)).where(*waiting)).scalar()
        expiries = [at for at in (earliest, batch.expires_at) if at is not None]
        if expiries and min(expiries) <= change.due_at:
            raise _too_late(min(expiries))
    seen: Mapping[UUID, int] = {}
    if change.kind in DECISIONS:
        waiting = (*waiting, *decidable(now=now))
        _require_decidable(connection, batch, waiting)
        seen = seen_contents(connection, waiting, at=seen_at)
    if dry_run:
        number = connection.execute(select(func.count()).select_from(schema.job).where(*waiting)).scalar_one()
        return Changing(int(number), batch_id=batch_id)
    if values := _of_batch(batch, change, now=now):
        connection.execute(update(table).where(table.c.id == batch_id).values(**values))
    event_id = new_id()
    fields = {"batch_id": batch_id, "at": now, "number": 0, "event_id": event_id}
    lane = {"application": batch.application} if batch.lane_id is None else lane_of(connection, batch)
    events.append(connection, change.kind.value, **fields, **_fields(change, author), **lane)
    return Changing(0, batch_id=batch_id, event_id=event_id, after=_FIRST, seen=seen, grants=grants)


def _require_decidable(connection: Connection, batch: Row[Any], waiting: Sequence[ColumnElement[bool]]) -> None:
    """Raise `NotWaiting` unless the batch is complete and some of its jobs wait: what is decided about is all there."""
    state = "open" if batch.open else "incomplete" if batch.total is None or batch.making else None
    if state == "open":
        raise NotWaiting("batch", str(batch.id), state, "more may be added to it; close it first")
    if state is not None:
        raise NotWaiting("batch", str(batch.id), state, "its messages are still being found; try again once they are")
    if connection.execute(select(schema.job.c.id).where(*waiting).limit(1)).first() is None:
        raise NotWaiting("batch", str(batch.id), "unfinished", "none of its jobs waits for approval")


def _of_batch(batch: Row[Any], change: Change, *, now: Micros) -> dict[str, Any]:
    """What the jobs that its walk makes later take from it."""
    match change.kind:
        case ChangeKind.HOLD:
            return {"held_at": batch.held_at or now}
        case ChangeKind.RELEASE:
            return {"held_at": None}
        case ChangeKind.PRIORITY:
            return {"priority": change.priority}
        case ChangeKind.APPROVE | ChangeKind.REJECT:
            return {}  # no more jobs come
    return {"due_at": change.due_at, "spread_until": None} | (
        {} if change.keeps_expiry else {"expires_at": change.expires_at}
    )


def _locked(connection: Connection, *which: Any) -> dict[UUID, Row[Any]]:
    """These jobs, each with its lane's application, grant and provider (None: the lane was not made yet)."""
    job, lane = schema.job, schema.lane
    statement = (
        select(job, lane.c.application, lane.c.grant_id, lane.c.provider)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(*which)
        .order_by(job.c.id)
        .with_for_update(of=job)
    )
    return {row.id: row for row in connection.execute(statement)}


def _of_grants(
    connection: Connection, rows: dict[UUID, Row[Any]], grants: Collection[str] | None
) -> dict[UUID, Row[Any]]:
    """Those of these jobs, from `_locked`, whose grant matches one of the patterns. None: all of them."""
    if grants is None:
        return rows
    lanes = _lanes_of(connection, list(rows.values()))
    return {key: row for key, row in rows.items() if owner.covers(grants, lanes[row.lane_id]["grant_id"])}


def _apply(connection: Connection, rows: Sequence[Row[Any]], change: Change, *, first: int = 0) -> int:
    """Change locked jobs that may be changed; returns how many were not as asked for before."""
    if change.kind is ChangeKind.REJECT:
        return len(end_waiting(connection, {row.id: Event.CANCEL for row in rows}, now=change.at, rule=REJECTED))
    changed = [
        (row, {"id": row.id, **columns})
        for position, row in enumerate(rows, start=first)
        if (columns := after_change(row, change, position=position))
    ]
    # Those that are held and those that are not change other columns.
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for _, columns in changed:
        alike.setdefault(tuple(columns), []).append(columns)
    for group in alike.values():
        update_rows(connection, schema.job, group)
    if change.kind is ChangeKind.RESCHEDULE:
        reschedule_parked(connection, [row.id for row, _ in changed if is_parked(row)], due_at=change.due_at)
    if changed and change.kind is not ChangeKind.HOLD:
        _wake(connection, changed)
    return len(changed)


def _wake(connection: Connection, changed: Sequence[tuple[Row[Any], dict[str, Any]]]) -> None:
    """Have the dispatcher look at the lanes of jobs that may begin earlier, or in another order, than it knows."""
    starts = {row.id: columns.get("next_at", row.next_at) for row, columns in changed}
    lanes = _lanes_of(connection, [row for row, _ in changed])
    woken = [
        _Woken(row.id, row.lane_id, lane["application"], lane["grant_id"], None, columns.get("priority", row.priority))
        for row, columns in changed
        if (lane := lanes[row.lane_id])["application"] is not None
    ]
    if woken:
        append_wakes(connection, wakes_of(woken, starts), at=min(starts.values()))


@dataclass(frozen=True, slots=True)
class _Woken:
    """A job as `wakes_of` reads it."""

    id: UUID
    lane_id: UUID
    application: str
    grant_id: str
    provider: str | None
    priority: int


def _lanes_of(connection: Connection, rows: Sequence[Row[Any]]) -> dict[UUID, dict[str, Any]]:
    """As `lane_of`, for jobs from `_locked`, by the ids of their lanes: only lanes that were not made yet are read."""
    lanes: dict[UUID, dict[str, Any]] = {}
    for row in rows:
        if row.application is not None:
            lanes[row.lane_id] = {"application": row.application, "grant_id": row.grant_id, "provider": row.provider}
        elif row.lane_id not in lanes:
            lanes[row.lane_id] = lane_of(connection, row)
    return lanes


def lane_of(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    """The application, grant and provider of a job or batch.

    The dispatcher may not have made its lane yet: then the wake row of its enqueue names them. The lane is read again
    after that, because the dispatcher turns one into the other.
    """
    lane, wake = schema.lane.c, schema.wake.c
    of_lane = select(lane.application, lane.grant_id, lane.provider).where(lane.id == row.lane_id)
    of_wake = select(wake.application, wake.grant_id, wake.provider).where(wake.lane_id == row.lane_id).limit(1)
    for query in (of_lane, of_wake, of_lane):
        if (found := connection.execute(query).first()) is not None:
            return dict(found._mapping)
    return {"application": None, "grant_id": None, "provider": None}


def _fields(change: Change, author: Author, job: Row[Any] | None = None) -> dict[str, Any]:
    """The fields of the event, those of the job or batch apart. Decisions about a job have its content version, unless
    its message is the one that was enqueued.
    """
    version = "" if job is None or not job.content_version else f"content version {job.content_version}"
    detail = {
        ChangeKind.APPROVE: version,
        ChangeKind.REJECT: version,
        ChangeKind.RESCHEDULE: f"due {moment(change.due_at):%Y-%m-%d %H:%M:%S}Z",
        ChangeKind.PRIORITY: ("high", "normal", "low")[change.priority],
    }.get(change.kind)
    rule = BY_HAND if change.kind in (ChangeKind.HOLD, ChangeKind.RELEASE) else None
    return {"by": author.by, "reason": author.reason_with(detail), "rule": rule}


def _too_late(expires_at: Micros | None) -> InvalidArgument:
    assert expires_at is not None
    reason = f"is not before it expires, at {moment(expires_at):%Y-%m-%d %H:%M:%S} UTC"
    return InvalidArgument([Problem("due_at", reason, "give an earlier time, or a later expiry with it")])
