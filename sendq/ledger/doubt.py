"""Doubt: jobs that may have gone out, the looks for them, and how they end.

`sendq.rules.reconcile` judges what a look proves; this module reads its input and writes the consequences. A doubt is
taken up once (`take_up`), so whatever put the job in doubt need not plan looks. Only an operator
(`sendq.ledger.operators.resolve`) and the reconciler (`settle`) move a job out of doubt, unless a fact comes late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from sendq.clock import SECOND, Micros
from sendq.facts.outcomes import Attempt, Sent
from sendq.ids import new_id
from sendq.ledger import events
from sendq.ledger.attempts import append_attempts
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.delivery_status import apply_known
from sendq.ledger.dispatching.lanes import NEVER
from sendq.ledger.dispatching.parked import park_again
from sendq.ledger.enqueue import append_wakes, wakes_of
from sendq.ledger.jobs import locked_from, store_changes
from sendq.rules.expiry import EXPIRY
from sendq.rules.reconcile import LOOKS_LEAST, Choice, Delays, Look, Seen, first_look, last_request, request_over
from sendq.rules.rule_ids import NEEDS_APPROVAL
from sendq.rules.states import FINAL, Event, State, move
from sendq.rules.waiting_job import HELD, approve_by_of, waits_for_approval

# A look that was begun but not recorded (its leader died) is repeated after this: longer than any look takes.
BEGUN_FOR: Micros = 5 * 60 * SECOND

IN_DOUBT: ColumnElement[str] = literal_column(
    f"'{State.IN_DOUBT.value}'"
)  # spelled out, or SQLite uses no partial index


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job to look for. ``first_at``: its first request whose outcome is unknown."""

    job: Row[Any]
    first_at: Micros

    @property
    def id(self) -> UUID:
        """The job's id: its mark."""
        return UUID(str(self.job.id))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a doubt ends: the move, the rule to record, and what to add to the trail, if anything."""

    event: Event
    rule: str
    message_id: str | None = None
    attempt: Attempt | None = None
    reason: str | None = None


def take_up(connection: Connection, delays: Delays, *, now: Micros, limit: int) -> Sequence[Row[Any]]:
    """Plan the first look for jobs that newly are in doubt; returns them with their ``grant_id``, each only once."""
    table, lane = schema.job, schema.lane
    columns = (
        "id", "rule", "form", "key_at", "doubt_at", "refused_at", "due_at", "expires_at", "cancel_at", "looks",
        "misses",
    )  # fmt: skip
    rows: Sequence[Any] = connection.execute(
        select(*(table.c[name] for name in columns), lane.c.grant_id)
        .join(lane, lane.c.id == table.c.lane_id)
        .where(table.c.state == IN_DOUBT, table.c.look_at.is_(None))
        .limit(limit)
        .with_for_update(of=table, skip_locked=True)
    ).all()
    planned = [
        {"id": row.id, "look_at": first_look(row, delays, now=now), "looks": 0, "misses": 0, "seen": None}
        for row in rows
    ]
    update_rows(connection, table, planned)
    return rows


def due(connection: Connection, *, now: Micros, limit: int, busy: Collection[UUID] = ()) -> list[Wanted]:
    """Jobs to look for now, at most one of each lane and none of the lanes that are ``busy``.

    No other caller gets them for `BEGUN_FOR`. Held and closed lanes are not searched.
    """
    table, lane = schema.job, schema.lane
    ranked = (
        _open(select(table.c.id, table.c.look_at, _place(now).label("place")), now)
        .where(table.c.lane_id.not_in(sorted(busy)))
        .subquery()
    )
    first = select(ranked.c.id).where(ranked.c.place == 1).order_by(ranked.c.look_at).limit(limit)
    ids = connection.execute(first).scalars().all()
    rows = connection.execute(
        select(table, lane.c.application, lane.c.grant_id, lane.c.provider)
        .join(lane, lane.c.id == table.c.lane_id)
        .where(table.c.id.in_(ids), table.c.state == IN_DOUBT, table.c.look_at <= now)
        .order_by(table.c.id)
        .with_for_update(of=table, skip_locked=True)
    ).all()
    begun = [{"id": row.id, "look_at": now + BEGUN_FOR} for row in rows]
    update_rows(connection, table, begun)
    firsts = _first_requests(connection, ids)
    return [Wanted(row, min(firsts.get((row.id, row.generation), NEVER), last_request(row))) for row in rows]


def _open(statement: Select[Any], now: Micros) -> Select[Any]:
    """Jobs in doubt whose look is due and whose lane may be searched."""
    table, lane, pair = schema.job, schema.lane, schema.pair
    held = exists().where(
        pair.c.application == lane.c.application,
        pair.c.provider.in_([lane.c.provider, "*"]),
        pair.c.held_until > now,
    )
    return statement.join(lane, lane.c.id == table.c.lane_id).where(
        table.c.state == IN_DOUBT,
        table.c.look_at <= now,
        lane.c.closed_at.is_(None),
        or_(lane.c.held_until.is_(None), lane.c.held_until <= now),
        ~held,
    )


def _place(now: Micros) -> Any:
    """The place of a job among those of its lane: what is due is looked for before what is not due yet."""
    table = schema.job.c
    return func.row_number().over(partition_by=table.lane_id, order_by=(table.due_at > now, table.look_at, table.id))


def _first_requests(connection: Connection, ids: Sequence[UUID]) -> dict[tuple[UUID, int], Micros]:
    """By job and generation: earlier generations are known not to have gone out."""
    table = schema.attempt.c
    rows = connection.execute(
        select(table.job_id, table.generation, func.min(table.begun_at).label("first_at"))
        .where(table.job_id.in_(ids), table.sent == "maybe")
        .group_by(table.job_id, table.generation)
    )
    return {(row.job_id, row.generation): row.first_at for row in rows}


def was_later(connection: Connection, wanted: Wanted, look: Look) -> bool:
    """Whether one of the other messages that a look showed is from a job of this lane that was accepted later.

    Later means: its request was begun when the last one of the wanted job was surely over, by the longest documented
    time that the API works on one.
    """
    ids = [UUID(mark) for mark in look.later]
    if not ids:
        return False
    job, attempt = schema.job.c, schema.attempt.c
    after = request_over(wanted.job)
    later = exists().where(attempt.job_id == job.id, attempt.sent == "yes", attempt.begun_at > after)
    found = select(job.id).where(
        job.id.in_(ids), job.lane_id == wanted.job.lane_id, job.state == State.SENT.value, later
    )
    return connection.execute(found.limit(1)).first() is not None


def note(connection: Connection, wanted: Wanted, seen: Seen, *, counts: bool, next_at: Micros) -> None:
    """Record a look that settled nothing; ``counts``: it was made when "not found" may count."""
    table = schema.job
    looks, misses = wanted.job.looks or 0, wanted.job.misses or 0
    connection.execute(
        update(table)
        .where(table.c.id == wanted.id, table.c.state == State.IN_DOUBT.value)
        .where(table.c.generation == wanted.job.generation, table.c.look_at.is_not(None))
        .values(
            look_at=next_at,
            looks=looks + (counts and seen is not Seen.REFUSED),
            misses=misses + (seen is Seen.ABSENT),
            seen=seen.value,
        )
    )


def rest(connection: Connection, lane_id: UUID, *, until: Micros) -> None:
    """Do not look for any job of this lane before ``until``, except those that are being settled at the moment."""
    table = schema.job
    these = select(table.c.id).where(table.c.lane_id == lane_id, table.c.state == IN_DOUBT, table.c.look_at < until)
    ids = connection.execute(these.with_for_update(skip_locked=True)).scalars().all()
    update_rows(connection, table, [{"id": job_id, "look_at": until} for job_id in ids])


def ripe(connection: Connection, choice: Choice, *, before: Micros, now: Micros, limit: int) -> Sequence[Row[Any]]:
    """Jobs whose last request was before ``before`` and whose own choice, or else ``choice``, may end the doubt.

    Jobs that `sendq.rules.reconcile.by_itself` would never end are left out, or they would block others.
    """
    job, lane = schema.job, schema.lane
    gone = and_(lane.c.closed_at.is_not(None), lane.c.gone)
    chosen = func.coalesce(job.c.in_doubt, choice.value)
    in_time = or_(job.c.expires_at.is_(None), job.c.expires_at > now)
    again = and_(chosen == Choice.RESEND.value, job.c.cancel_at.is_(None), in_time)
    return connection.execute(
        select(job, gone.label("gone"))
        .join(lane, lane.c.id == job.c.lane_id)
        .where(job.c.state == IN_DOUBT, job.c.look_at.is_not(None), job.c.doubt_at < before)
        .where(chosen != Choice.WAIT.value, or_(gone, and_(job.c.looks >= LOOKS_LEAST, job.c.due_at <= now)))
        .where(or_(gone, chosen == Choice.DEAD.value, again))
        .order_by(job.c.look_at)
        .limit(limit)
    ).all()


# --- how it ends ------------------------------------------------------------------------------------------------------


def settle(
    connection: Connection,
    endings: Mapping[UUID, Ending],
    *,
    by: str,
    now: Micros,
    generation: int | None = None,
    even_late: bool = False,
    starts: Mapping[UUID, Micros] | None = None,
    act: UUID | None = None,
) -> list[Row[Any]]:
    """End doubts; returns the jobs (as they were) that were still in doubt.

    A job that returns to the queue gets a new key, and its attempts start at 0. ``generation``: only if the job still
    has this one. ``even_late``: a job that has expired gets a new expiry, because an operator wants it sent; and poison
    is tried. ``starts``: when each job that returns to the queue may begin; None: now. ``act``: the event of the act
    that this is a part of. One that follows another job waits for that again, unless it was released.

    Reports about the mails come first: what is known to have gone out is sent, whatever the ending.
    """
    starts = starts or {}
    apply_known(connection, [job_id for job_id, one in endings.items() if one.event is not Event.ACCEPT], now=now)
    rows = [row for row in _locked(connection, endings) if generation in (None, row.generation)]
    changed = [
        (locked_from(row), _ended(row, endings[row.id], at=starts.get(row.id, now), now=now, even_late=even_late))
        for row in rows
    ]
    store_changes(connection, changed, now=now)
    append_attempts(connection, [a for row in rows if (a := endings[row.id].attempt) is not None])
    events.append_all(connection, [_event(row, endings[row.id], by=by, act=act, now=now) for row in rows])
    first = {row.id: starts.get(row.id, now) for row in rows if endings[row.id].event is Event.RETURN}
    if first:
        parked = park_again(connection, first, even_late=even_late)
        wakes = wakes_of([row for row in rows if row.id in first and row.id not in parked], first)
        if wakes:
            append_wakes(connection, wakes, at=min(first.values()))
    return rows


def _locked(connection: Connection, ids: Iterable[UUID]) -> Sequence[Row[Any]]:
    job, lane = schema.job, schema.lane
    return connection.execute(
        select(job, lane.c.application, lane.c.grant_id, lane.c.provider)
        .join(lane, lane.c.id == job.c.lane_id)
        .where(job.c.id.in_(sorted(ids)), job.c.state == IN_DOUBT)
        .order_by(job.c.id)
        .with_for_update(of=job)
    ).all()


def _state_after(state: State, event: Event) -> State:
    """The state after a doubt. A job can expire or be cancelled only in the queue, so it returns there first."""
    if event in (Event.EXPIRE, Event.CANCEL):
        state = move(state, Event.RETURN)
    return move(state, event)


def _ended(row: Row[Any], ending: Ending, *, at: Micros, now: Micros, even_late: bool) -> dict[str, Any]:
    state = _state_after(State(row.state), ending.event)
    again = state is State.QUEUED
    # By a person, or until it is approved: a ledger that was restored may have lost that it was.
    is_held = row.resume_at is not None
    # One that was not due yet returns to its place among the jobs of its time, which are a microsecond apart.
    place = row.resume_at if is_held else row.next_at
    start = at if row.due_at <= at else max(row.due_at, place)
    late = row.expires_at is not None and row.expires_at <= at
    expires_at = at + EXPIRY if again and late and even_late else row.expires_at
    waits = again and waits_for_approval(row)
    return {
        "id": row.id,
        "state": state.value,
        "rule": NEEDS_APPROVAL if waits else ending.rule,
        "message_id": ending.message_id or row.message_id,
        "finished_at": now if state in FINAL else None,
        "next_at": (max(row.next_at, HELD) if is_held else start) if again else row.next_at,
        "resume_at": start if again and is_held else row.resume_at,
        "attempts": 0 if again else row.attempts,
        "deaths": 0 if again and even_late else row.deaths,  # else it would just kill its process again
        "conflicts": 0,
        "generation": row.generation + again,
        "key_at": None if again else row.key_at,
        "doubt_at": None if again else row.doubt_at,
        "refused_at": None,
        "expires_at": expires_at,
        "approve_by": approve_by_of(start, expires_at, row.time_window) if waits and even_late else row.approve_by,
        "look_at": None,
        "looks": None,
        "misses": None,
        "seen": None,
    }


def trail(
    row: Any,
    rule: str,
    *,
    sent: str,
    begun_at: Micros,
    now: Micros,
    status: int | None = None,
    error: str | None = None,
) -> Attempt:
    """An entry in a job's trail that is not a call: what was learned about the calls before."""
    return Attempt(
        new_id(),
        row.id,
        row.generation,
        worker_id=None,
        begun_at=begun_at,
        ended_at=now,
        status=status,
        rule=rule,
        route=None if sent == Sent.YES else "retry",
        sent=sent,
        error=error,
    )


def _event(row: Row[Any], ending: Ending, *, by: str, act: UUID | None, now: Micros) -> dict[str, Any]:
    return events.event(
        "resolved",
        at=now,
        by=by,
        application=row.application,
        provider=row.provider,
        grant_id=row.grant_id,
        job_id=row.id,
        rule=ending.rule,
        reason=ending.reason,
        act=act,
    )
