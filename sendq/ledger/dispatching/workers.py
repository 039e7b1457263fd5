"""Which workers are alive, and which one dispatches.

A worker's row counts its beats. A watcher judges a worker by how long that count has not changed on the watcher's own
monotonic clock, and records that time, so that the next watcher need not start from zero.

The dispatcher's lease names the time at which it ends, for processes that start later; a process that has seen it
unchanged for its whole duration may ignore that time (the holder's clock may have been ahead).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Connection, Integer, Uuid, bindparam, delete, insert, select, update

from sendq.clock import SECOND, Micros
from sendq.ids import new_id
from sendq.ledger.db import constant, schema
from sendq.ledger.dispatching.lineage import DISPATCHER


@dataclass(frozen=True, slots=True)
class Load:
    """How much a worker can do (calls at once)."""

    capacity: int
    stopping: bool = False


def register(
    connection: Connection,
    worker: UUID,
    *,
    name: str,
    pid: int,
    version: str,
    load: Load,
    now: Micros,
    stale_after: Micros = 8 * SECOND,
) -> None:
    """Register a worker. Its id is never reused.

    ``stale_after``: the silence after which it counts as dead. Watchers may have other settings for themselves.
    """
    connection.execute(
        insert(schema.worker).values(
            id=worker,
            name=name,
            pid=pid,
            version=version,
            started_at=now,
            beats=0,
            beat_at=now,
            silent=0,
            stale_after=stale_after,
            capacity=load.capacity,
            stopping=load.stopping,
        )
    )


def beat(connection: Connection, worker: UUID, *, load: Load, now: Micros) -> bool:
    """Count a beat; False: the worker was presumed dead and buried, and must go on under a new id."""
    values = {"worker": worker, "now": now, "most": load.capacity, "is_stopping": load.stopping}
    return bool(constant.rows(connection, _BEAT, values))


_BEAT = (
    update(schema.worker)
    .where(schema.worker.c.id == bindparam("worker", type_=Uuid))
    .values(
        beats=schema.worker.c.beats + 1,
        beat_at=bindparam("now", type_=BigInteger),
        silent=0,
        capacity=bindparam("most", type_=Integer),
        stopping=bindparam("is_stopping", type_=Boolean),
    )
    .returning(schema.worker.c.id)
)


@dataclass(frozen=True, slots=True)
class Beats:
    """A worker's count of beats, for how long watchers have recorded that it did not change, and for how long that may
    last before the worker counts as dead.
    """

    count: int
    silent: Micros
    stale_after: Micros = 8 * SECOND


def beats(connection: Connection) -> dict[UUID, Beats]:
    """The beats of every worker."""
    rows = constant.rows(connection, _BEATS, {})
    return {worker: Beats(count, silent, stale_after) for worker, count, silent, stale_after in rows}


_BEATS = select(schema.worker.c.id, schema.worker.c.beats, schema.worker.c.silent, schema.worker.c.stale_after)


def record_silence(connection: Connection, worker: UUID, seen: Beats) -> None:
    """Record for how long the count has not changed; nothing if it has changed, or a longer time is recorded."""
    table = schema.worker
    still = update(table).where(table.c.id == worker, table.c.beats == seen.count, table.c.silent < seen.silent)
    connection.execute(still.values(silent=seen.silent))


def beats_of(connection: Connection, worker: UUID) -> int | None:
    """The count of beats of one worker, its row locked; None if it is gone."""
    table = schema.worker
    found = connection.execute(select(table.c.beats).where(table.c.id == worker).with_for_update()).scalar()
    return None if found is None else int(found)


def deregister(connection: Connection, worker: UUID) -> None:
    """Delete the row of a worker that has stopped."""
    connection.execute(delete(schema.worker).where(schema.worker.c.id == worker))


@dataclass(frozen=True, slots=True)
class Lease:
    """The dispatcher's lease; it changes whenever its holder renews it."""

    holder: UUID | None
    expires_at: Micros
    fence: int


def lease(connection: Connection) -> Lease:
    """The current lease. Locks nothing."""
    table = schema.leader.c
    row = connection.execute(select(table.holder, table.expires_at, table.fence).where(table.name == DISPATCHER)).one()
    return Lease(row.holder, row.expires_at, row.fence)


def lead(
    connection: Connection,
    holder: UUID,
    *,
    now: Micros,
    lease: Micros,
    over: Lease | None = None,
    complete: bool = True,
) -> int | None:
    """Take or renew the dispatcher's lease, and count that; returns its fence, or None while another process holds it.

    ``over``: a lease that was not renewed for its whole duration, and so is over whatever time it names. ``complete``:
    whether the ledger had lost nothing at the renewal before, whose time is recorded then.
    """
    if over is None:  # the usual case: this process holds it
        values = {"who": holder, "until": now + lease, "now": now}
        if found := constant.rows(connection, _RENEW_WHOLE if complete else _RENEW, values):
            return int(found[0][0])
    table = schema.leader
    columns = (table.c.holder, table.c.expires_at, table.c.fence, table.c.line)
    row = connection.execute(select(*columns).where(table.c.name == DISPATCHER).with_for_update()).one()
    ours = row.holder == holder
    known = Lease(row.holder, row.expires_at, row.fence)
    if not ours and row.holder is not None and row.expires_at > now and known != over:
        return None
    line = row.line or new_id()
    renewed = {"expires_at": now + lease, "line": line, "renewals": table.c.renewals + 1, "renewed_at": now}
    if complete:
        renewed["complete_at"] = table.c.renewed_at  # of the renewal before, since this one is still to be judged
    taken = renewed | {"holder": holder, "fence": row.fence + 1, "sleeps_until": 0}
    connection.execute(update(table).where(table.c.name == DISPATCHER).values(renewed if ours else taken))
    return int(row.fence if ours else row.fence + 1)


_LEADER = schema.leader.c
_RENEW = (
    update(schema.leader)
    .where(_LEADER.name == DISPATCHER, _LEADER.holder == bindparam("who", type_=Uuid), _LEADER.line.is_not(None))
    .values(
        expires_at=bindparam("until", type_=BigInteger),
        renewals=_LEADER.renewals + 1,
        renewed_at=bindparam("now", type_=BigInteger),
    )
    .returning(_LEADER.fence)
)
_RENEW_WHOLE = _RENEW.values(complete_at=_LEADER.renewed_at)


def resign(connection: Connection, holder: UUID) -> None:
    """Release the lease, if this process holds it."""
    table = schema.leader
    mine = update(table).where(table.c.name == DISPATCHER, table.c.holder == holder)
    connection.execute(mine.values(holder=None, expires_at=0, sleeps_until=0))


def sleep_until(connection: Connection, holder: UUID, until: Micros) -> bool:
    """Ask to be woken by a commit that wants a turn before ``until`` (0: do not wake); False: the lease is lost."""
    table = schema.leader
    mine = update(table).where(table.c.name == DISPATCHER, table.c.holder == holder)
    return connection.execute(mine.values(sleeps_until=until)).rowcount == 1
