"""Undoing a batch of modifications: which batch can be undone, and the batch that does it.

The batch is locked, so that of two undos the second finds the first. Its jobs are those of the messages whose change
was made; what each of them restores is read when it is claimed (`sendq.ledger.snapshots`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, exists, or_, select

from sendq.bindings import batch_context
from sendq.clock import Micros
from sendq.enqueueing.batches import Undo, plan_undo, undo_key_row
from sendq.enqueueing.options import Options
from sendq.enqueueing.plan import Plan
from sendq.errors import InvalidArgument, Problem
from sendq.facts.outcomes import Sent
from sendq.ledger import admission, events
from sendq.ledger.batches import sums_of
from sendq.ledger.db import schema
from sendq.ledger.enqueue import require_same, store
from sendq.ledger.reading import lookup
from sendq.ledger.storing import lock_before_reading, store_batch
from sendq.ledger.waiting_jobs import Author, lane_of
from sendq.rules.states import State
from sendq.rules.tags import read_tags
from sendq.vault import Vault
from sendq.views import Batch

KIND = "undo"


@dataclass(frozen=True, slots=True)
class Undoing:
    """How a batch is undone: author and reason, priority and receiver of the undo, the lane's limit, the encryption
    keys, and the key of the undo.
    """

    author: Author
    priority: int
    on_outcome: str | None
    cap: int | None
    vault: Vault
    key: str | None = None


def undo(connection: Connection, batch_id: UUID, how: Undoing, *, now: Micros, dry_run: bool = False) -> Batch:
    """Store the batch that undoes another one, or return the one that is doing it, or that the key names already.

    ``dry_run``: nothing is stored, and the result has the id of the batch that would be undone; it raises the same.

    Raises:
        NotFound: there is no such batch.
        InvalidArgument: it cannot be undone.
        KeyConflict: the key was used for something else.
        Unreadable: its request is encrypted with a key that the vault does not have.
        LaneFull: as at enqueue.
    """
    lock_before_reading(connection)
    table = schema.batch
    row = connection.execute(select(table).where(table.c.id == batch_id).with_for_update()).first()
    if row is None:
        raise lookup.no_such_batch(batch_id)
    if how.key is not None and (made := _made_with(connection, row, how.key, how.vault, now=now)) is not None:
        return made
    if (problem := _refusal(row)) is not None:
        raise InvalidArgument([problem])
    under_way = select(table.c.id, table.c.total).where(table.c.undoes == batch_id, table.c.finished_at.is_(None))
    if (other := connection.execute(under_way).first()) is not None:
        if how.key is not None and not dry_run:  # from now on a repeat finds it, also after its end
            named = undo_key_row(row.application, how.key, batch_id, now=now, batch_id=other.id)
            store(connection, Plan(jobs=(), keys=[named]), at=now, vault=how.vault)
        return Batch(str(other.id), other.total, existed=True)
    messages, left_out = _changed_messages(connection, batch_id)
    if not messages:
        raise InvalidArgument([Problem("batch_id", "has changed no message of which a snapshot is kept", _NOTHING)])
    lane = lane_of(connection, row)
    context = batch_context(
        row.id, row.lane_id, row.operation, row.target, row.hard, row.fields, row.content_type
    )  # fmt: skip
    body = how.vault.open(bytes(row.body), row.cipher_key, context=context)
    if dry_run:
        if how.cap is not None:
            lanes = [(row.application, lane["grant_id"])]
            admission.admit(connection, lanes, cap=how.cap, now=now, more=len(messages))
        return Batch(str(batch_id), len(messages), left_out=left_out)
    options = Options(
        application=row.application, key=how.key, priority=how.priority, on_outcome=how.on_outcome,
        tags=read_tags(row.tags),
    )  # fmt: skip
    wanted = Undo(batch_id, lane["grant_id"], row.lane_id, row.fields, body, messages, options)
    made = store_batch(connection, plan_undo(wanted, now=now), len(messages), now=now, cap=how.cap, vault=how.vault)
    reason = how.author.reason_with(f"by batch {made.id}")
    fields = {"batch_id": batch_id, "number": len(messages), "at": now, "by": how.author.by, "reason": reason}
    events.append(connection, KIND, **fields, **lane)
    return replace(made, left_out=left_out)


def _made_with(connection: Connection, batch: Row[Any], key: str, vault: Vault, *, now: Micros) -> Batch | None:
    """The undo of a batch that a key names; None: the key is new. Raises `KeyConflict` if it names something else."""
    keys, table = schema.key, schema.batch
    this = (keys.c.application == batch.application, keys.c.key == key)
    found = connection.execute(select(keys).where(*this)).first()
    if found is None:
        return None
    wanted = undo_key_row(batch.application, key, batch.id, now=now, batch_id=batch.id)
    identity = require_same(found, wanted["digest"], vault)
    total = connection.execute(select(table.c.total).where(table.c.id == identity)).scalar()
    return Batch(str(identity), total, existed=True)


_NOTHING = "nothing is left to undo"


def _refusal(batch: Row[Any]) -> Problem | None:
    """Why a batch cannot be undone; None: it can."""
    again = "modify the messages again"
    if batch.undoes is not None:
        return Problem("batch_id", "is an undo itself", again)
    if batch.operation == "send":
        return Problem("batch_id", "is a batch of sends, which cannot be undone", "cancel_batch ends what waits of one")
    if batch.operation == "delete" and batch.hard:
        return Problem("batch_id", "has deleted messages permanently", "they cannot be restored")
    if batch.operation == "delete":
        reason = "has moved messages to the trash, and Nylas has no call to take them back"
        return Problem("batch_id", reason, "set the folders of each with modify")
    if not batch.undoable:
        return Problem("batch_id", "keeps no snapshots: it was enqueued without undoable=True", again)
    if batch.finished_at is None:
        return Problem("batch_id", "still goes on", "wait until it has ended, or cancel it first")
    if not batch.body:
        return Problem("batch_id", "was erased when its grant was forgotten", again)
    return None


def _changed_messages(connection: Connection, batch_id: UUID) -> tuple[list[str], int]:
    """The messages that a batch may have changed, in the order of its jobs, of which snapshots are kept; and how many
    others it has changed, whose jobs retention has deleted.

    A change whose answer was lost may have been made, whatever became of its job: the undo finds that out.
    """
    job, kept, attempt = schema.job, schema.snapshot, schema.attempt.c
    may_be_made = exists().where(attempt.job_id == job.c.id, attempt.sent != Sent.NO.value)
    query = (
        select(job.c.object_id, job.c.state)
        .join(kept, kept.c.job_id == job.c.id)
        .where(job.c.batch_id == batch_id)
        .where(or_(job.c.state == State.SENT.value, job.c.doubt_at.is_not(None), may_be_made))
        .order_by(job.c.id)
    )
    rows = connection.execute(query).all()
    sent = sum(row.state == State.SENT for row in rows)
    left_out = sums_of(connection, [batch_id])[batch_id].get(State.SENT.value, 0) - sent
    return [row.object_id for row in rows], max(0, left_out)
