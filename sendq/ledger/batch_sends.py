"""Storing batches of sends, part by part in one transaction, all or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.enqueueing.batch_sends import NewBatch, Sends, batch_row
from sendq.enqueueing.plan import Plan
from sendq.enqueueing.planning import Options, Send, key_row
from sendq.enqueueing.suppressing import Hit
from sendq.errors import InvalidJob, Problem, SuppressedRecipients
from sendq.ledger.batches import ADDED, lock_open, note_added, notice
from sendq.ledger.enqueue import store
from sendq.ledger.jobs import append_batch_changes, hold_with_batches
from sendq.ledger.storing import begin_before_savepoint
from sendq.ledger.suppressing import Enqueuer, note_left_out
from sendq.messages.payload import content_digest
from sendq.rules.tags import read_tags
from sendq.vault import Vault
from sendq.views import Batch


@dataclass(frozen=True, slots=True)
class Storing:
    """How a queue stores its sends. ``own``: which recipients the application's own list suppresses."""

    enqueuer: Enqueuer
    own: Callable[[Sequence[Send]], list[Hit]]
    cap: int | None
    vault: Vault

    def parts(
        self, connection: Connection, sends: Sends, *, with_digest: bool, now: Micros, held: bool = False
    ) -> tuple[int, Counter[str]]:
        """Store the jobs of a batch. Returns how many there are that no key named before, and how many messages were
        left out because of their suppressed recipients, by reason. ``held``: the batch is.

        Raises:
            InvalidJob, LaneFull, KeyConflict, SuppressionListFailed: roll back what was stored.
        """
        number = 0
        left_out: Counter[str] = Counter()
        for part, planned in sends.parts():
            if with_digest:
                sends.count_in(part, planned)
            try:
                jobs = self.enqueuer.store(
                    connection, part.sends, planned, lambda verdict, part=part: part.plan(verdict),  # type: ignore[misc]
                    own=self.own(part.sends), indexed=True, now=now, cap=self.cap, vault=self.vault, left_out=left_out,
                )  # fmt: skip
            except SuppressedRecipients as refused:
                sends.refuse(part, refused.problems)
            else:
                added = [UUID(job.id) for job in jobs if not job.existed]
                number += len(added)
                if held and added:
                    hold_with_batches(connection, added)
        return number, left_out


def store_new_batch(
    connection: Connection, new: NewBatch, batch_id: UUID, sends: Sends, storing: Storing, *, now: Micros
) -> Batch:
    """Store a batch of sends. Returns it, or the older one that its key already names.

    The key comes last, when all contents are known: if it names an older batch, what was stored is rolled back.
    """
    begin_before_savepoint(connection)
    with connection.begin_nested() as step:
        number, left_out = storing.parts(connection, sends, with_digest=new.key is not None, now=now)
        if not sends.number and not new.open:
            raise InvalidJob([Problem("sends", "is empty", "pass at least one message, or a NewBatch(open=True)")])
        keys = []
        if new.key is not None:
            content = content_digest("batch", new.application, "", sends.digest)
            keys = [key_row(Options(key=new.key, application=new.application), content, now=now, batch_id=batch_id)]
        batch = batch_row(new, batch_id, now=now, number=number, lanes=sends.lanes)
        found = store(connection, Plan(jobs=(), batch=batch, keys=keys), at=now, vault=storing.vault)
        if found:
            step.rollback()
            (older,) = found.values()
            return Batch(str(older), sends.number, existed=True)
        if new.open:
            append_batch_changes(connection, Counter({(batch_id, ADDED): number}), now=now)
        elif not number:  # keys named all of its messages already, or all were left out: nothing will end
            notice(connection, batch_id, now=now)
        note_left_out(connection, new.application, batch_id, left_out, now=now)
    return Batch(str(batch_id), number, left_out=left_out.total())


def add_to_batch(
    connection: Connection,
    batch_id: UUID,
    read: Callable[[str, dict[str, str]], Sends],
    storing: Storing,
    *,
    now: Micros,
) -> Batch:
    """Add to an open batch. ``read`` gets its application and its tags."""
    begin_before_savepoint(connection)
    with connection.begin_nested():
        batch = lock_open(connection, batch_id)
        sends = read(batch.application, read_tags(batch.tags))
        held = batch.held_at is not None
        number, left_out = storing.parts(connection, sends, with_digest=False, now=now, held=held)
        note_added(connection, batch, number, sends.lanes, now=now)
        note_left_out(connection, batch.application, batch_id, left_out, now=now)
    return Batch(str(batch_id), number, left_out=left_out.total())
