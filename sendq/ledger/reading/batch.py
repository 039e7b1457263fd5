"""A batch: its progress, rate and expected end, its walk, and its first dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, select

from sendq.clock import Micros, micros, moment
from sendq.facts.lanes import Lane
from sendq.ledger.batches import ADDED, Sums, sums_of
from sendq.ledger.db import schema
from sendq.ledger.jobs import COUNTED
from sendq.ledger.reading.budgets import room
from sendq.ledger.reading.grants import closed_until
from sendq.ledger.reading.holds import holds_in_force, tag_holds, wide_holds
from sendq.ledger.reading.lookup import no_such_batch
from sendq.ledger.reading.rows import as_list, first, lane_of
from sendq.ledger.reading.unapproved import waiting
from sendq.rules.pace import call_of, pacer_of
from sendq.rules.progress import RATE_WINDOW, eta, jobs_ended, listings_ended, rate, walk_state
from sendq.rules.rule_ids import LEFT_ALONE
from sendq.rules.states import FINAL, State
from sendq.rules.windows import readable_window
from sendq.views import BatchError, BatchView, HoldView, LeftAlone, WalkView

ERRORS_MOST = 10

# Waiting jobs of a batch whose own tags are looked at: enough to find the tags of a mail merge, in milliseconds.
TAGGED_MOST = 1_000


@dataclass(frozen=True, slots=True)
class BatchRow:
    """The stored fields of a batch that its view shows."""

    id: UUID
    application: str
    lane_id: UUID | None
    operation: str
    open: bool
    walk: str | None
    listings: int
    total: int | None
    making: bool
    created_at: Micros
    cancel_at: Micros | None
    held_at: Micros | None
    finished_at: Micros | None
    tags: dict[str, str]
    time_window: str | None
    spread_until: Micros | None
    undoable: bool
    undoes: UUID | None

    @property
    def spread_ends_at(self) -> Micros | None:
        """By when the last of its messages is due; None: they are not spread, or more are added."""
        return None if self.open else self.spread_until


def batch(connection: Connection, batch_id: UUID, *, now: Micros) -> BatchView:
    """A batch, the sum of its counted changes, and its expected end. Raises `NotFound`."""
    row = first(connection, BatchRow, schema.batch, schema.batch.c.id == batch_id)
    if row is None:
        raise no_such_batch(batch_id)
    lane = None if row.lane_id is None else lane_of(connection, row.lane_id)
    sums = sums_of(connection, [batch_id])[batch_id]
    pace = _rate(connection, batch_id, now=now)
    holds = _holds(connection, row, lane, now=now)
    window = row.time_window or (None if lane is None else lane.time_window)
    counts = {state: sums[state.value] for state in State if state in COUNTED and sums.get(state.value)}
    unapproved = _unapproved(connection, batch_id) if row.finished_at is None else 0
    dead = counts.get(State.DEAD, 0) + sums.get("list:dead", 0)
    return BatchView(
        id=str(row.id),
        operation=row.operation,
        application=row.application,
        grant_id=None if lane is None else lane.grant_id,
        total=sums.get(ADDED, 0) if row.open else row.total,
        open=row.open,
        holds=holds,
        counts=counts,
        created_at=moment(row.created_at),
        walk=_walk(row, sums),
        rate=pace,
        eta=None
        if unapproved or _is_over_budget(connection, row, sums, now=now)
        else _eta_in_window(row, lane, sums, pace, _last_end(holds), window, now=now),
        errors=_errors(connection, batch_id) if dead else (),
        cancelled_at=None if row.cancel_at is None else moment(row.cancel_at),
        held_at=None if row.held_at is None else moment(row.held_at),
        finished_at=None if row.finished_at is None else moment(row.finished_at),
        tags=row.tags,
        unapproved=unapproved,
        window=window,
        opens_at=None if row.finished_at is not None else closed_until(window, now),
        spread_until=None if row.spread_ends_at is None else moment(row.spread_ends_at),
        undoable=row.undoable,
        undoes=None if row.undoes is None else str(row.undoes),
        left=() if row.undoes is None or State.CANCELLED not in counts else _left_alone(connection, batch_id),
    )


def _is_over_budget(connection: Connection, row: BatchRow, sums: Sums, *, now: Micros) -> bool:
    """Whether more of its sends wait than a budget of its application or tags lets begin now."""
    if row.operation != "send" or row.total is None or row.finished_at is not None:
        return False
    own = [f"{key}={value}" for key, value in row.tags.items()]
    left = room(connection, row.application, own, now=now)
    return left is not None and row.total - jobs_ended(sums) > left


def _unapproved(connection: Connection, batch_id: UUID) -> int:
    this = select(func.count()).where(schema.job.c.batch_id == batch_id, *waiting())
    return int(connection.execute(this).scalar_one())


def _left_alone(connection: Connection, batch_id: UUID) -> tuple[LeftAlone, ...]:
    """What an undo left alone, by reason."""
    job = schema.job.c
    these = (job.batch_id == batch_id, job.state == State.CANCELLED.value)
    counted = select(job.rule, func.count().label("number")).where(*these, job.rule.in_(LEFT_ALONE)).group_by(job.rule)
    found = []
    for row in connection.execute(counted.order_by(job.rule)).all():
        first_ones = select(job.object_id).where(*these, job.rule == row.rule).order_by(job.id).limit(ERRORS_MOST)
        found.append(LeftAlone(row.rule, row.number, tuple(connection.execute(first_ones).scalars())))
    return tuple(found)


def _walk(row: BatchRow, sums: Sums) -> WalkView | None:
    state = walk_state(row, sums, total=row.total, making=row.making)
    if state is None:
        return None
    return WalkView(
        state=state,
        pages=sums.get("page", 0),
        found=sums.get("found", 0),
        listings=row.listings,
        listed=listings_ended(sums),
    )


def _rate(connection: Connection, batch_id: UUID, *, now: Micros) -> float:
    change = schema.batch_change.c
    lately = connection.execute(
        select(func.sum(change.count).label("ended"), func.min(change.at).label("first_at")).where(
            change.batch_id == batch_id,
            change.at > now - RATE_WINDOW,
            change.state.in_([state.value for state in FINAL]),
        )
    ).one()
    return rate(int(lately.ended or 0), over=now - (lately.first_at or now))


def _holds(connection: Connection, row: BatchRow, lane: Lane | None, *, now: Micros) -> tuple[HoldView, ...]:
    """The holds in force over its waiting jobs, the widest first."""
    if row.finished_at is not None:
        return ()
    if lane is None:
        wide = wide_holds(connection, now=now, applications=[row.application])
        found = [hold for hold in wide if hold.provider is None]
    else:
        found = holds_in_force(connection, lane, now=now)
    of_tags = [hold for hold in tag_holds(connection, now=now) if hold.application == row.application]
    if of_tags:
        own = {f"{key}={value}" for key, value in row.tags.items()}
        others = [hold.tag for hold in of_tags if hold.tag not in own]
        own |= _tags_among(connection, row.id, others) if others else set()
        found += [hold for hold in of_tags if hold.tag in own]
    return tuple(found)


def _tags_among(connection: Connection, batch_id: UUID, tags: Sequence[str | None]) -> set[str]:
    """Those of these tags that one of its first waiting jobs has."""
    job, tag = schema.job.c, schema.job_tag.c
    some = (
        select(job.id)
        .where(job.batch_id == batch_id, job.state == State.QUEUED.value)
        .order_by(job.id)
        .limit(TAGGED_MOST)
        .subquery()
    )
    query = select(tag.tag).join(some, some.c.id == tag.job_id).where(tag.tag.in_(tags)).distinct()
    return set(connection.execute(query).scalars())


def _last_end(holds: Sequence[HoldView]) -> Micros:
    return max((micros(hold.until) for hold in holds if hold.until is not None), default=0)


def _eta_in_window(
    row: BatchRow, lane: Lane | None, sums: Sums, pace: float, held_until: Micros, window: str | None, *, now: Micros
) -> datetime | None:
    """The expected end, with the times at which the window is closed, and after the end of the spread."""
    at = _eta(row, lane, sums, pace, held_until, now=now)
    if at is None or not row.total:
        return at
    end = micros(at)
    readable = None if window is None else readable_window(window)
    if readable is not None:
        begin = max(now, held_until)
        end = readable.after_open_time(begin, end - begin)
    return moment(max(end, row.spread_ends_at or 0))


def _eta(
    row: BatchRow, lane: Lane | None, sums: Sums, pace: float, held_until: Micros, *, now: Micros
) -> datetime | None:
    if row.total is None or row.finished_at is not None or row.held_at is not None:
        return None
    if lane is None:
        return _eta_of_several(row, sums, pace, held_until, now=now)
    waiting = row.total - jobs_ended(sums) - sums.get(State.IN_DOUBT.value, 0)
    at = eta(
        waiting,
        rate=pace,
        paced_at=pacer_of(lane, now=now).start_of(max(1, waiting), call_of(row.operation, None), now),
        held_until=held_until,
        closed=lane.closed_at is not None,
        now=now,
    )
    return None if at is None else moment(at)


def _eta_of_several(row: BatchRow, sums: Sums, pace: float, held_until: Micros, *, now: Micros) -> datetime | None:
    """From the rate and the holds of all its jobs: the lanes of several grants have their own paces and holds."""
    waiting = (row.total or 0) - jobs_ended(sums) - sums.get(State.IN_DOUBT.value, 0)
    if waiting and not pace:
        return None
    at = eta(waiting, rate=pace, paced_at=now, held_until=held_until, closed=False, now=now)
    return None if at is None else moment(at)


def _errors(connection: Connection, batch_id: UUID) -> tuple[BatchError, ...]:
    """The first dead letters of a batch, each with the API's last answer."""
    job, attempt = schema.job.c, schema.attempt.c
    last = (
        select(attempt.error)
        .where(attempt.job_id == job.id, attempt.error.is_not(None))
        .order_by(attempt.begun_at.desc(), attempt.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(job.id.label("job_id"), job.object_id, job.operation, job.rule, last.label("error"))
        .where(job.batch_id == batch_id, job.state == State.DEAD.value)
        .order_by(job.id)
        .limit(ERRORS_MOST)
    )
    return tuple(as_list(BatchError, rows))
