"""Batches: adding up their changes, ending them once, cancelling and reopening them.

Whatever ends a job appends a row to ``batch_change``, so no row is hot. The leader adds these rows up: sums of the last
two minutes are kept apart (the rate is computed from them), older ones are merged into one. What it reads after that
decides whether a walk is over and whether the last job has ended; both are decided under the batch's lock, which a
retry also takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, or_, select, update

from sendq.clock import SECOND, Micros
from sendq.errors import InvalidJob, Problem
from sendq.ledger import events
from sendq.ledger.cancel import cancel_some
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import CHUNK, insert_rows
from sendq.ledger.jobs import append_batch_changes
from sendq.ledger.reading.lookup import no_such_batch
from sendq.ledger.reading.owner import require_grants
from sendq.ledger.waiting_jobs import lane_of
from sendq.rules.progress import ended, walk_is_complete
from sendq.rules.states import State

# Sums younger than this are kept apart. Twice the time over which the rate is computed.
KEPT_APART: Micros = 120 * SECOND

# Jobs that one transaction of a cancel ends: few enough that a row stays locked for milliseconds only.
CANCEL_STEP = 500

Sums = Mapping[str, int]

# Messages that were added to an open batch.
ADDED = "added"


def sums_of(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Sums]:
    """The sums of these batches so far, by state."""
    table = schema.batch_change.c
    query = select(table.batch_id, table.state, func.sum(table.count).label("sum")).where(table.batch_id.in_(ids))
    found: dict[UUID, Sums] = {}
    for row in connection.execute(query.group_by(table.batch_id, table.state)):
        found[row.batch_id] = {**found.get(row.batch_id, {}), row.state: int(row.sum)}
    return {batch_id: found.get(batch_id, {}) for batch_id in ids}


def finish_batches(connection: Connection, *, now: Micros, limit: int) -> list[UUID]:
    """Add up to ``limit`` changes to the sums of their batches; returns the batches whose last job has thereby ended.

    Each of these now has its ``finished_at``, and no other call returns it, unless dead letters of it are retried: then
    it is open until the last of those has ended. A walk that is over begins to make its jobs.
    """
    table = schema.batch
    changed = _changed(connection, limit=limit)
    if not changed:
        return []
    # FOR NO KEY UPDATE, here and in `reopen`: it does not block transactions that add to an open batch.
    query = select(table).where(table.c.id.in_(changed)).order_by(table.c.id).with_for_update(key_share=True)
    batches = connection.execute(query).all()
    _add_up(connection, changed, now=now, limit=limit)
    sums = sums_of(connection, changed)
    finished = []
    for batch in batches:
        values = _after(batch, sums[batch.id], now=now)
        if values:
            connection.execute(update(table).where(table.c.id == batch.id).values(**values))
        if "finished_at" in values:
            finished.append(batch.id)
    return finished


def _changed(connection: Connection, *, limit: int) -> list[UUID]:
    """Batches with changes that are not summed yet."""
    table = schema.batch_change.c
    news = select(table.batch_id).where(~table.summed).order_by(table.id).limit(limit).subquery()
    return sorted(connection.execute(select(news.c.batch_id).distinct()).scalars())


def _add_up(connection: Connection, ids: Sequence[UUID], *, now: Micros, limit: int) -> None:
    table = schema.batch_change
    this = table.c.batch_id.in_(ids)
    some = select(table.c.id).where(this, or_(~table.c.summed, table.c.at < now - KEPT_APART))
    # Unsummed ones first, or old sums could keep them out forever.
    some = some.order_by(table.c.summed, table.c.id).limit(limit)
    gone = connection.execute(delete(table).where(table.c.id.in_(some)).returning(*table.c)).all()
    counts: Counter[tuple[UUID, str, Micros]] = Counter()
    for _, batch_id, state, count, _, summed in gone:
        counts[batch_id, state, now - KEPT_APART if summed else now] += count
    rows = [
        {"batch_id": batch_id, "state": state, "count": count, "at": at, "summed": True}
        for (batch_id, state, at), count in counts.items()
        if count
    ]
    insert_rows(connection, table, rows)


def _after(batch: Row[Any], sums: Sums, *, now: Micros) -> dict[str, Any]:
    """The columns of a batch to set, given its sums."""
    values: dict[str, Any] = {}
    total = batch.total
    if batch.walk is not None and walk_is_complete(batch, sums) and sums.get("found", 0) != total:
        total = sums.get("found", 0)
        values |= {"total": total, "making": total > 0}
    if batch.finished_at is None and ended(batch, sums, total=total):
        values["finished_at"] = now
    return values


def reopen(connection: Connection, ids: Collection[UUID]) -> None:
    """Reopen batches some of whose dead letters are retried: they will end again later."""
    if not ids:
        return
    table = schema.batch
    # In the order in which the leader locks them. It may be about to end one because of an earlier read, so each is
    # always written, even if it is open: the second of the two then sees what the first did.
    connection.execute(
        select(table.c.id).where(table.c.id.in_(ids)).order_by(table.c.id).with_for_update(key_share=True)
    ).all()
    connection.execute(update(table).where(table.c.id.in_(ids)).values(finished_at=None))


# --- batches of sends that are open -----------------------------------------------------------------------------------


def lock_open(connection: Connection, batch_id: UUID) -> Row[Any]:
    """An open batch, locked so that it is neither closed nor cancelled before this transaction ends.

    It does not block other transactions that add to the batch, nor the leader.

    Raises:
        NotFound: there is no such batch.
        InvalidJob: it is not open.
    """
    table = schema.batch
    # FOR KEY SHARE: it conflicts with FOR UPDATE only.
    this = select(table).where(table.c.id == batch_id).with_for_update(read=True, key_share=True)
    row = connection.execute(this).first()
    if row is None:
        raise no_such_batch(batch_id)
    if not row.open:
        reason = "was cancelled" if row.cancel_at is not None else "is not open: it was closed, or made in one call"
        raise InvalidJob([Problem("batch", reason, "make another batch")])
    return row


def note_added(
    connection: Connection, batch: Row[Any], number: int, lanes: Collection[UUID], *, now: Micros,
    spread_until: Micros | None,
) -> None:  # fmt: skip
    """Count messages that were added to an open batch; ``lanes``: of theirs."""
    append_batch_changes(connection, Counter({(batch.id, ADDED): number}), now=now)
    changes: dict[str, Any] = {}
    if batch.lane_id is not None and set(lanes) - {batch.lane_id}:
        changes["lane_id"] = None
    if spread_until is not None:
        changes["spread_until"] = max(batch.spread_until or 0, spread_until)
    if changes:
        table = schema.batch
        connection.execute(update(table).where(table.c.id == batch.id).values(**changes))


def close(connection: Connection, batch: Row[Any], *, now: Micros) -> int:
    """Close an open batch that is locked FOR UPDATE; returns its total. The leader ends it after its last job."""
    table, total = schema.batch, sums_of(connection, [batch.id])[batch.id].get(ADDED, 0)
    connection.execute(update(table).where(table.c.id == batch.id).values(open=False, total=total))
    notice(connection, batch.id, now=now)
    return total


def notice(connection: Connection, batch_id: UUID, *, now: Micros) -> None:
    """Have the leader look at a batch whose last job may have ended already."""
    append_batch_changes(connection, Counter({(batch_id, "closed"): 1}), now=now)


def close_batch(connection: Connection, batch_id: UUID, *, now: Micros, grants: Collection[str] | None = None) -> int:
    """Close an open batch; returns its total. Waits for transactions that are adding to it. Closing again is harmless.

    Raises:
        NotFound: there is no such batch, or it has other grants than these patterns.
        InvalidJob: it is no batch of sends.
    """
    table = schema.batch
    row = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).first()
    if row is None:
        raise no_such_batch(batch_id)
    require_grants(connection, batch_id, grants)
    if row.operation != "send":
        raise InvalidJob([Problem("batch", "is not a batch of sends", "only these are left open, and closed")])
    return close(connection, row, now=now) if row.open else int(row.total or 0)


# --- cancel -----------------------------------------------------------------------------------------------------------


def cancel_batch(connection: Connection, batch_id: UUID, *, now: Micros, grants: Collection[str] | None = None) -> bool:
    """Cancel a batch: nothing more of it begins. False if it was cancelled before or has ended.

    Raises `NotFound`, also if it has other grants than these patterns.
    """
    table = schema.batch
    row = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).first()
    if row is None:
        raise no_such_batch(batch_id)
    require_grants(connection, batch_id, grants)
    if row.finished_at is not None or row.cancel_at is not None:
        return False
    if row.open:
        close(connection, row, now=now)
    connection.execute(update(table).where(table.c.id == batch_id).values(cancel_at=now, making=False))
    return True


def cancel_batch_by(
    connection: Connection, batch_id: UUID, *, by: str, reason: str | None, now: Micros,
    grants: Collection[str] | None = None,
) -> bool:  # fmt: skip
    """`cancel_batch`, with an event that has its author and reason if it changed something."""
    if not cancel_batch(connection, batch_id, now=now, grants=grants):
        return False
    table = schema.batch
    row = connection.execute(select(table).where(table.c.id == batch_id)).one()
    lane = {"application": row.application} if row.lane_id is None else lane_of(connection, row)
    events.append(connection, "cancel", at=now, by=by, reason=reason, batch_id=batch_id, **lane)
    return True


def being_cancelled(connection: Connection, *, limit: int) -> Sequence[UUID]:
    """Cancelled batches that may still have waiting jobs or messages."""
    table = schema.batch.c
    query = select(table.id).where(table.cancel_at.is_not(None), ~table.cancelled).order_by(table.id)
    return connection.execute(query.limit(limit)).scalars().all()


def end_some(connection: Connection, batch_id: UUID, *, after: UUID, now: Micros) -> UUID | None:
    """Cancel the next few hundred jobs of a cancelled batch after an id; returns where to continue, None at the end."""
    table, jobs = schema.batch, schema.job
    batch = connection.execute(select(table).where(table.c.id == batch_id)).first()
    if batch is None or batch.cancel_at is None or batch.cancelled:
        return None
    step = select(jobs.c.id).where(jobs.c.batch_id == batch_id, jobs.c.id > after).order_by(jobs.c.id)
    ids = connection.execute(step.limit(CANCEL_STEP)).scalars().all()
    cancel_some(connection, ids, now=now)
    if ids:
        last: UUID = ids[-1]
        return last
    if _forget_some(connection, batch, now=now):
        return after
    connection.execute(update(table).where(table.c.id == batch_id).values(cancelled=True))
    return None


def _forget_some(connection: Connection, batch: Row[Any], *, now: Micros) -> int:
    """Delete messages that were found but have no jobs yet; if the total is known, they count as cancelled."""
    table = schema.found
    some = select(table.c.object_id).where(table.c.batch_id == batch.id).limit(CHUNK)
    ids = connection.execute(some).scalars().all()
    connection.execute(delete(table).where(table.c.batch_id == batch.id, table.c.object_id.in_(ids)))
    if batch.total is not None:
        append_batch_changes(connection, Counter({(batch.id, State.CANCELLED.value): len(ids)}), now=now)
    return len(ids)
