"""Deliveries: which outcomes are due to which receivers, and the results of attempts to deliver them.

A failed attempt is attributed to one of two causes, each with its own backoff:

    the receiver       it does not answer, or something else does: all its deliveries are held for 10 s, 20 s … 10
                       minutes, then a single one is tried. The others do not use up attempts
    the delivery       the receiver answers and rejects this one: it is retried after 10 s, 20 s … 6 hours, and the
                       others go on. Five rejections in a row without a success count as the receiver's fault

A delivery that still fails after 72 hours is given up: it is kept and shown, and `retry` makes it due again. Deliveries
about one subject to one target are made in order: each waits for the earlier ones.

Only the leader delivers. If two processes believe they are the leader, some outcomes are delivered twice, which every
receiver must expect anyway; so no row is claimed, and a worker that dies leaves nothing to release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from sendq.clock import SECOND, Micros
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import update_rows
from sendq.ledger.outcomes import GIVE_UP_AFTER
from sendq.views import Backlog
from sendq.views.status import DELIVERIES_MOST

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"
STATES = (WAITING, DELIVERED, GIVEN_UP)

# As literals, or the planner does not use the partial indexes.
_WAITING: ColumnElement[str] = literal_column(f"'{WAITING}'")
_GIVEN_UP: ColumnElement[str] = literal_column(f"'{GIVEN_UP}'")

PAUSE_FIRST: Micros = 10 * SECOND
PAUSE_MOST: Micros = 6 * 3600 * SECOND

# A receiver that works again is noticed within this time; one request per 10 minutes does no harm.
HOLD_MOST: Micros = 10 * 60 * SECOND

REFUSALS_IN_A_ROW = 5

# At most this many are given up at once when their receiver fails: enough for any backlog within a few holds.
GIVE_UP_MOST = 10_000

# There are as many receivers as the settings name, unless applications enqueue for hosts that are not allowed.
RECEIVERS_MOST = 200


def pause_after(failures: int, *, most: Micros) -> Micros:
    """The backoff after this many failures: 10 s, 20 s, 40 s … ``most``."""
    return min(most, PAUSE_FIRST << min(failures - 1, 20))


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver with due deliveries. ``failing``: its last attempt failed, so a single delivery is tried first."""

    name: str
    failing: bool


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """The result of one attempt. ``error`` None: delivered. ``unreachable``: the fault is the receiver's."""

    delivery_id: UUID
    error: str | None = None
    unreachable: bool = False
    wait: Micros = 0  # what the receiver asked for


@dataclass(frozen=True, slots=True)
class AttemptsRecorded:
    """What recording attempts changed: deliveries given up, and until when the receiver is held (None: it is not)."""

    given_up: int
    held_until: Micros | None
    error: str | None


# The receivers of waiting deliveries, with one index probe each.
_RECEIVERS = (
    text(
        "WITH RECURSIVE walk (name, step) AS ("
        " SELECT (SELECT d.receiver FROM sendq_delivery AS d WHERE d.state = 'waiting'"
        "  ORDER BY d.receiver LIMIT 1), 1"
        " UNION ALL"
        " SELECT (SELECT d.receiver FROM sendq_delivery AS d WHERE d.state = 'waiting' AND d.receiver > walk.name"
        "  ORDER BY d.receiver LIMIT 1), step + 1 FROM walk WHERE walk.name IS NOT NULL AND step < :limit"
        ") SELECT walk.name AS name, coalesce(r.holds, 0) AS holds FROM walk"
        " LEFT JOIN sendq_receiver AS r ON r.name = walk.name"
        " WHERE walk.name IS NOT NULL AND (r.held_until IS NULL OR r.held_until <= :now)"
        " AND EXISTS (SELECT 1 FROM sendq_delivery AS d WHERE d.state = 'waiting' AND d.receiver = walk.name"
        "  AND d.next_at <= :now)"
    )
    .bindparams(bindparam("now", type_=BigInteger()))
    .columns(name=Text(), holds=BigInteger())
)


def receivers(connection: Connection, *, now: Micros) -> list[Receiver]:
    """Receivers that have due deliveries and are not held."""
    rows = connection.execute(_RECEIVERS, {"limit": RECEIVERS_MOST, "now": now})
    return [Receiver(row.name, failing=row.holds > 0) for row in rows]


def due(connection: Connection, receiver: str, *, now: Micros, limit: int) -> Sequence[Row[Any]]:
    """Up to ``limit`` deliveries to make, longest due first; for each subject only the first."""
    table, before = schema.delivery, schema.delivery.alias("before")
    earlier = select(before.c.id).where(
        before.c.subject == table.c.subject,
        before.c.sequence < table.c.sequence,
        before.c.target == table.c.target,
        before.c.state == _WAITING,
    )
    return connection.execute(
        select(table)
        .where(table.c.receiver == receiver, table.c.state == _WAITING, table.c.next_at <= now, ~earlier.exists())
        .order_by(table.c.next_at, table.c.id)
        .limit(limit)
    ).all()


def record(connection: Connection, receiver: str, tried: Sequence[DeliveryAttempt], *, now: Micros) -> AttemptsRecorded:
    """Record attempts at one receiver, in the order in which they ended."""
    table = schema.delivery
    wanted = select(table).where(table.c.id.in_([one.delivery_id for one in tried])).order_by(table.c.id)
    rows = {row.id: row for row in connection.execute(wanted.with_for_update()) if row.state == WAITING}
    after = [_after(rows[one.delivery_id], one, now=now) for one in tried if one.delivery_id in rows]
    update_rows(connection, table, after)
    delivered = [one["id"] for one in after if one["state"] == DELIVERED and rows[one["id"]].addresses is not None]
    update_rows(connection, table, [{"id": one, "addresses": None, "cipher_key": None} for one in delivered])
    given_up = sum(one["state"] == GIVEN_UP for one in after)
    held_until, error = _note_receiver(connection, receiver, tried, now=now)
    if held_until is not None:
        given_up += _give_up_with(connection, receiver, error, now=now)
    return AttemptsRecorded(given_up, held_until, error)


def _after(row: Row[Any], tried: DeliveryAttempt, *, now: Micros) -> dict[str, Any]:
    refusals = row.refusals + (tried.error is not None and not tried.unreachable)
    change = {"id": row.id, "tries": row.tries + 1, "refusals": refusals, "tried_at": now, "error": tried.error}
    change |= {"next_at": row.next_at, "state": WAITING, "done_at": None}
    if tried.error is None:
        return change | {"state": DELIVERED, "done_at": now}
    if now >= row.until:
        return change | {"state": GIVEN_UP, "done_at": now}
    if not tried.unreachable:
        change["next_at"] = now + max(tried.wait, pause_after(refusals, most=PAUSE_MOST))
    return change


def _note_receiver(
    connection: Connection, name: str, tried: Sequence[DeliveryAttempt], *, now: Micros
) -> tuple[Micros | None, str | None]:
    """Count a receiver's failures; return until when it is held, if it is, and why.

    Attempts made at the same time count as one failure.
    """
    table = schema.receiver
    row = connection.execute(select(table).where(table.c.name == name).with_for_update()).first()
    refusals, holds = (row.refusals, row.holds) if row else (0, 0)
    last: DeliveryAttempt | None = None
    for one in tried:
        if one.error is None:
            refusals, holds, last = 0, 0, None
            continue
        refusals += not one.unreachable
        if one.unreachable or refusals >= REFUSALS_IN_A_ROW:
            last = one
    held_until = None
    if last is not None:
        holds += 1
        held_until = now + max(min(last.wait, PAUSE_MOST), pause_after(holds, most=HOLD_MOST))
    values = {"refusals": refusals, "holds": holds, "held_until": held_until}
    if row is None:
        if refusals or holds:
            connection.execute(insert(table).values(name=name, **values))
    elif any(row._mapping[column] != value for column, value in values.items()):
        connection.execute(update(table).where(table.c.name == name).values(values))
    return held_until, last.error if last else None


def _give_up_with(connection: Connection, receiver: str, error: str | None, *, now: Micros) -> int:
    """Give up deliveries that have waited too long for a failing receiver."""
    table = schema.delivery
    over = select(table.c.id).where(table.c.receiver == receiver, table.c.state == _WAITING, table.c.until <= now)
    # Locked ones are being retried by an operator, who waits for the receiver's row.
    ids = connection.execute(over.limit(GIVE_UP_MOST).with_for_update(skip_locked=True)).scalars().all()
    given_up = {"state": GIVEN_UP, "done_at": now, "error": error}
    update_rows(connection, table, [{"id": delivery_id, **given_up} for delivery_id in ids])
    return len(ids)


def backlog(connection: Connection, *, now: Micros) -> Backlog:
    """How many outcomes wait for delivery, and which receivers fail. The cost is bounded."""
    table, receiver = schema.delivery.c, schema.receiver.c
    waits = select(table.created_at).where(table.state == _WAITING).limit(DELIVERIES_MOST).subquery()
    waiting = connection.execute(select(func.count(), func.min(waits.c.created_at)).select_from(waits)).one()
    over = select(table.id).where(table.state == _GIVEN_UP).limit(DELIVERIES_MOST).subquery()
    for_it = select(table.id).where(table.receiver == receiver.name, table.state == _WAITING).exists()
    failing = select(receiver.name).where(receiver.holds > 0, for_it).order_by(receiver.name).limit(RECEIVERS_MOST)
    return Backlog(
        waiting=int(waiting[0]),
        oldest_s=0.0 if waiting[1] is None else max(0, now - waiting[1]) / SECOND,
        given_up=int(connection.execute(select(func.count()).select_from(over)).scalar_one()),
        failing=tuple(connection.execute(failing).scalars()),
    )


# --- retries ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter of deliveries. ``subject``: a job's, batch's or lane's id."""

    ids: Sequence[UUID] | None = None
    states: Sequence[str] = ()
    kinds: Sequence[str] = ()
    receiver: str | None = None
    subject: UUID | None = None
    lane_id: UUID | None = None

    def conditions(self) -> list[Any]:
        """The filter as SQL conditions."""
        table = schema.delivery.c
        found: list[Any] = []
        if self.ids is not None:
            found.append(table.id.in_(self.ids))
        if self.states:
            found.append(table.state.in_(self.states))
        if self.kinds:
            found.append(table.kind.in_(self.kinds))
        for column, value in (
            (table.receiver, self.receiver),
            (table.subject, self.subject),
            (table.lane_id, self.lane_id),
        ):
            if value is not None:
                found.append(column == value)
        return found


def undelivered(connection: Connection, wanted: Wanted) -> int:
    """How many deliveries match the filter and were not delivered."""
    table = schema.delivery.c
    statement = select(func.count()).where(*wanted.conditions(), table.state != DELIVERED)
    return int(connection.execute(statement).scalar_one())


def retry(connection: Connection, wanted: Wanted, *, after: UUID | None, now: Micros, limit: int) -> list[UUID]:
    """Make up to ``limit`` matching undelivered deliveries after ``after`` due now; return their ids.

    They get another 72 hours, and their receivers are no longer held.
    """
    table = schema.delivery
    chosen = (
        select(table.c.id, table.c.receiver)
        .where(*wanted.conditions(), table.c.state != DELIVERED)
        .order_by(table.c.id)
        .limit(limit)
        .with_for_update()
    )
    rows = connection.execute(chosen if after is None else chosen.where(table.c.id > after)).all()
    values = {"state": WAITING, "next_at": now, "until": now + GIVE_UP_AFTER, "refusals": 0, "done_at": None}
    update_rows(connection, table, [{"id": row.id, **values} for row in rows])
    names = {row.receiver for row in rows}
    if names:
        connection.execute(delete(schema.receiver).where(schema.receiver.c.name.in_(names)))
    return [row.id for row in rows]
