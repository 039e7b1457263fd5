"""Storing batches of sends, part by part in one transaction, all or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select

from sendq.clock import Micros
from sendq.enqueueing.batch_sends import NewBatch, Sends, batch_row
from sendq.enqueueing.options import Options, Send
from sendq.enqueueing.plan import Plan
from sendq.enqueueing.rows import key_row
from sendq.enqueueing.suppressing import Hit
from sendq.errors import InvalidJob, LaneFull, Problem, Retryable, SuppressedRecipients, SuppressionListFailed
from sendq.ledger.batches import ADDED, lock_open, note_added, notice
from sendq.ledger.db import schema
from sendq.ledger.enqueue import require_same, store
from sendq.ledger.jobs import append_batch_changes, hold_with_batches
from sendq.ledger.reading import owner
from sendq.ledger.storing import begin_before_savepoint, lock_before_reading
from sendq.ledger.suppressing import Enqueuer, note_left_out
from sendq.messages.payload import content_digest
from sendq.messages.unsubscribe import Links
from sendq.rules.tags import read_tags
from sendq.rules.windows import read_window
from sendq.vault import Vault
from sendq.views import Batch


@dataclass(frozen=True, slots=True)
class Storing:
    """How a queue stores its sends.

    ``own``: which recipients the application's own list suppresses; ``links``: makes unsubscribe links, with the key in
    the ledger of this connection.
    """

    enqueuer: Enqueuer
    own: Callable[[Sequence[Send]], list[Hit]]
    links: Callable[[Connection], Links]
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
        for part, planned in sends.parts(partial(self.links, connection)):
            if with_digest:
                sends.count_in(part, planned)
            try:
                jobs = self.enqueuer.store(
                    connection, part.sends, planned, lambda verdict, part=part: part.plan(verdict),  # type: ignore[misc]
                    own=self._ask(connection, part.sends), indexed=True, now=now, cap=self.cap, vault=self.vault,
                    left_out=left_out,
                )  # fmt: skip
            except SuppressedRecipients as refused:
                sends.refuse(part, refused.problems)
            else:
                added = [job.id for job in jobs if not job.existed]
                number += len(added)
                if held and added:
                    hold_with_batches(connection, [UUID(job) for job in added])
        return number, left_out

    def check(self, connection: Connection, sends: Sends, links: Links, *, now: Micros) -> Counter[str]:
        """Raise `InvalidJob` and `SuppressedRecipients` as `parts` would; nothing is stored. Returns how many messages
        would be left out, by reason.
        """
        left_out: Counter[str] = Counter()
        for part, _ in sends.parts(lambda: links):
            verdict = self.enqueuer.judge(
                connection, part.sends, own=self.own(part.sends), indexed=True, of_batch=True, now=now, vault=self.vault
            )
            sends.refuse(part, verdict.problems)
            left_out.update(hits[0].reason for hits in verdict.left_out.values())
        return left_out

    def _ask(self, connection: Connection, sends: Sequence[Send]) -> list[Hit]:
        try:
            return self.own(sends)
        except SuppressionListFailed as failed:
            if connection.dialect.name != "sqlite":
                raise
            reason = "a batch asks it in its transaction, so it cannot write to the file of a SQLite ledger"
            raise SuppressionListFailed(f"{failed} ({reason})") from failed.__cause__


@contextmanager
def reading_once() -> Iterator[None]:
    """Say with `Retryable` that the messages have been read: they may come from a generator."""
    try:
        yield
    except Retryable as error:
        raise Retryable(f"{error}; pass the messages again: from a new generator, since this one was read") from error


def store_new_batch(
    connection: Connection, new: NewBatch, batch_id: UUID, sends: Sends, storing: Storing, *, now: Micros
) -> Batch:
    """Store a batch of sends. Returns it, or the older one that its key already names, even if recipients have been
    suppressed since or too many jobs wait.

    A new key is stored last, when all contents are known. Until then another call may store it: then what was stored
    here is rolled back.
    """
    begin_before_savepoint(connection)
    lock_before_reading(connection)
    if (older := _key_of(connection, new)) is not None:
        return _repeated(connection, older, new, sends, storing)
    try:
        return _store_new(connection, new, batch_id, sends, storing, now=now)
    except (SuppressedRecipients, LaneFull):
        if (older := _key_of(connection, new)) is None:
            raise
        return _repeated(connection, older, new, sends, storing)


def _key_of(connection: Connection, new: NewBatch) -> Row[Any] | None:
    """The row of the batch's key, if it was used before."""
    table = schema.key
    this = select(table).where(table.c.application == new.application, table.c.key == new.key)
    return None if new.key is None else connection.execute(this).first()


def _repeated(connection: Connection, older: Row[Any], new: NewBatch, sends: Sends, storing: Storing) -> Batch:
    """What a key already names. Reads (the rest of) the messages for their digest alone.

    Raises `KeyConflict`, and `InvalidJob` for messages that are invalid.
    """
    with suppress(SuppressedRecipients):  # of parts before the key was found; raised after the last part
        for part, planned in sends.parts(partial(storing.links, connection)):
            sends.count_in(part, planned)
    _require_some(new, sends)
    return Batch(str(require_same(older, _content_of(new, sends), storing.vault)), sends.number, existed=True)


def _require_some(new: NewBatch, sends: Sends) -> None:
    if not sends.number and not new.open:
        raise InvalidJob([Problem("sends", "is empty", "pass at least one message, or a NewBatch(open=True)")])


def _content_of(new: NewBatch, sends: Sends) -> bytes:
    return content_digest("batch", new.application, "", sends.digest)


def _store_new(
    connection: Connection, new: NewBatch, batch_id: UUID, sends: Sends, storing: Storing, *, now: Micros
) -> Batch:
    with connection.begin_nested() as step:
        number, left_out = storing.parts(connection, sends, with_digest=new.key is not None, now=now)
        _require_some(new, sends)
        keys = []
        if new.key is not None:
            options = Options(key=new.key, application=new.application)
            keys = [key_row(options, _content_of(new, sends), now=now, batch_id=batch_id)]
        batch = batch_row(
            new, batch_id, now=now, number=number, lanes=sends.lanes, spread_until=sends.spread_until
        )  # fmt: skip
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
    read: Callable[..., Sends],
    storing: Storing,
    *,
    now: Micros,
    grants: Collection[str] | None = None,
) -> Batch:
    """Add to an open batch. ``read`` gets its application, tags, window and the like by their names.

    ``grants``: patterns of the only grants that it may have then. This is checked last, so that it counts what others
    have added and committed meanwhile; what they commit later is added to a batch that has these messages.
    """
    begin_before_savepoint(connection)
    lock_before_reading(connection)
    with connection.begin_nested():
        batch = lock_open(connection, batch_id)
        sends = read(
            application=batch.application, tags=read_tags(batch.tags), needs_approval=batch.needs_approval,
            window=None if batch.time_window is None else read_window(batch.time_window),
            spread=None if batch.spread is None else timedelta(microseconds=batch.spread),
        )  # fmt: skip
        held = batch.held_at is not None
        number, left_out = storing.parts(connection, sends, with_digest=False, now=now, held=held)
        note_added(connection, batch, number, sends.lanes, now=now, spread_until=sends.spread_until)
        note_left_out(connection, batch.application, batch_id, left_out, now=now)
        owner.require_grants(connection, batch_id, grants)
    return Batch(str(batch_id), number, left_out=left_out.total())
