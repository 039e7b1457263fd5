"""Undo a batch of modifications that keeps what its messages were."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from sendq.clock import Micros
from sendq.ledger.undoing import Undoing, undo
from sendq.ledger.waiting_jobs import Author
from sendq.vault import Vault
from sendq.views import Priority


@dataclass(frozen=True, slots=True)
class UndoResult:
    """What an undo did, or (``dry_run``) would do.

    ``undo_id``: the batch that undoes ``batch_id``; None: a dry run. ``total``: its messages. ``existed``: it was
    started before, and goes on, or its key names it. ``left_out``: messages that were changed, but whose snapshots are
    no longer kept.
    """

    batch_id: str
    undo_id: str | None
    total: int
    existed: bool
    dry_run: bool
    left_out: int = 0


def undo_batch(
    connection: Connection,
    batch_id: UUID,
    author: Author,
    *,
    key: str | None,
    vault: Vault,
    dry_run: bool,
    now: Micros,
) -> UndoResult:
    """Start the undo of a batch. Raises what `undo` raises."""
    how = Undoing(author, Priority.NORMAL.value, None, None, vault, key)
    made = undo(connection, batch_id, how, now=now, dry_run=dry_run)
    undo_id = made.id if made.existed or not dry_run else None
    return UndoResult(str(batch_id), undo_id, made.total or 0, made.existed, dry_run, made.left_out)
