"""The methods of `AsyncSendQueue` that modify and delete many messages, and undo that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from sqlalchemy import Connection

from sendq import changes, clock
from sendq.enqueueing.batches import MOST_IDS_SQLITE, BulkCall, Changes, Selection, plan_batch
from sendq.enqueueing.options import Options, OptionsGiven
from sendq.enqueueing.query import Query
from sendq.enqueueing.shared import Shared
from sendq.ledger.db.async_transactions import AsyncTransactions
from sendq.ledger.reading import lookup
from sendq.ledger.storing import store_batch
from sendq.ledger.undoing import Undoing, undo
from sendq.scope import DEFAULT_APPLICATION
from sendq.vault import Vault
from sendq.views import Batch, Priority


class AsyncBulk:
    """See the module."""

    _ledger: AsyncTransactions
    _now: clock.Clock
    _vault: Vault
    _metadata_key: str
    _lane_cap: int | None

    async def modify(
        self,
        grant_id: str,
        message_ids: Iterable[str] | None = None,
        *,
        thread_ids: Iterable[str] | None = None,
        whole_threads: bool = False,
        unread: bool | None = None,
        starred: bool | None = None,
        folders: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
        shared_from: str | None = None,
        shared_folder_id: str | None = None,
        query_imap: bool | None = None,
        undoable: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Enqueue the same change for many messages: a batch with one job, and one request, per message.

        Give either ``message_ids`` or ``thread_ids``. Changes to one message are made strictly in the order in which
        they were enqueued. The other options are explained at `sendq.Options`.

        Args:
            grant_id: the account.
            message_ids: the messages to change. A SQLite ledger takes 100,000 in one call.
            thread_ids: change every message of these threads. Workers find the messages by listing them page by page,
                and continue after a crash; the batch's total is None until all are listed.
            whole_threads: make one request per thread instead (``unread``, ``starred`` and ``folders`` only). Nylas
                then changes the messages itself. With Microsoft, a long thread can exceed the API's time limit (504),
                and the order relative to changes of single messages is not kept.
            unread: mark as unread or as read.
            starred: add or remove the star.
            folders: **replaces** the folders (labels) of a message. Microsoft takes exactly one.
            metadata: **replaces** the metadata of a message. On messages that this queue sent, the pair with the job's
                id is kept.
            shared_from: Microsoft: the messages are in a mailbox that is shared with the account: its address or grant
                id. With ``thread_ids`` it needs ``shared_folder_id``.
            shared_folder_id: Microsoft: the folder in that mailbox that has the threads.
            query_imap: IMAP, Yahoo and iCloud: find a message on the IMAP server itself, for messages older than the
                90 days that Nylas stores. Slow.
            undoable: keep what the messages were before, for `undo`. Each message is read right before it is changed,
                which is one more request. Not with ``whole_threads``.
            session: join this transaction.

        Raises what `send` raises. An exception that ``message_ids`` or ``thread_ids`` raise while they are read is
        passed on, and nothing is stored.
        """
        selection = Selection(message_ids=message_ids, thread_ids=thread_ids)
        changes = Changes(unread, starred, folders, metadata)
        shared = Shared(shared_from, shared_folder_id, query_imap)
        call = BulkCall(
            grant_id, selection, Options(**options), changes, whole_threads=whole_threads, shared=shared,
            undoable=undoable,
        )  # fmt: skip
        return await self._store_batch(call, session)

    async def modify_matching(
        self,
        grant_id: str,
        query: Query,
        *,
        unread: bool | None = None,
        starred: bool | None = None,
        folders: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
        undoable: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Enqueue a change for every message of the account that matches ``query``; otherwise like `modify`.

        Workers list all matching messages, twenty per page, before they change the first one, because a change can
        alter what matches and shift the pages. The batch's total is None until then. If a later call changes the same
        fields of a message in the meantime, that message is skipped (its job is cancelled, rule ``overtaken``).
        ``undoable``: keep what the messages were before, for `undo`, as in `modify`.
        """
        changes = Changes(unread, starred, folders, metadata)
        call = BulkCall(grant_id, Selection(query=query), Options(**options), changes, undoable=undoable)
        return await self._store_batch(call, session)

    async def undo(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        undo_key: str | None = None,
        priority: Priority | str | int = Priority.NORMAL,
        on_outcome: str | None = None,
        by: str | None = None,
        reason: str | None = None,
        session: Any = None,
    ) -> Batch:
        """Undo a batch of modifications that was enqueued with ``undoable=True``, and has ended.

        The result is a batch with a job for each message that was changed. It reads the message, and restores what it
        was before if it is as the change left it. A message that was changed since, or is gone, is left alone: its job
        is cancelled (rules ``changed_since`` and ``gone_since``), and `BatchView.left` counts and names them. Messages
        whose change failed or was not made are not touched; one whose answer was lost is restored if it was made.
        `Batch.left_out` counts the changed messages whose snapshots are no longer kept. While an undo of the batch goes
        on, this returns it.

        Args:
            batch_id, key: the batch; give one.
            undo_key: of the undo: a repeat with it returns the same undo, also after that has ended.
            priority, on_outcome: of the undo, see `sendq.Options`.
            by, reason: author and reason, recorded with it; by default ``program`` and none.
            session: join this transaction.

        Raises:
            InvalidArgument: the batch cannot be undone: it still goes on, keeps no snapshots, changed nothing, sends or
                deletes, is an undo itself, or its grant was forgotten.
            NotFound: there is no such batch.
            KeyConflict: ``undo_key`` was used before, for something else.
            LaneFull, Unreadable: as in `send`.
        """
        author = changes.author_of(by, reason)
        wanted = changes.priority_of(priority).priority
        receiver, name = changes.target_of(on_outcome), changes.undo_key_of(undo_key)

        def store(connection: Connection) -> Batch:
            found = lookup.batch_id(connection, batch_id, application, key)
            how = Undoing(author, wanted, receiver, self._lane_cap, self._vault, name)
            return undo(connection, found, how, now=self._now())

        return await self._ledger.write(session, store)

    async def delete(
        self,
        grant_id: str,
        message_ids: Iterable[str] | None = None,
        *,
        thread_ids: Iterable[str] | None = None,
        hard: bool = False,
        shared_from: str | None = None,
        shared_folder_id: str | None = None,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Enqueue the deletion of ``message_ids``, or of every message of ``thread_ids``; both as in `modify`.

        Messages move to the trash. With ``hard`` they are deleted permanently, which needs "Enable hard delete" in the
        Nylas dashboard, and for Google a grant with the full Gmail scope (``https://mail.google.com/``).
        """
        selection = Selection(message_ids=message_ids, thread_ids=thread_ids)
        shared = Shared(shared_from, shared_folder_id)
        call = BulkCall(grant_id, selection, Options(**options), hard=hard, shared=shared)
        return await self._store_batch(call, session)

    async def delete_matching(
        self,
        grant_id: str,
        query: Query,
        *,
        hard: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Enqueue the deletion of every message that matches ``query``; see `modify_matching` and `delete`."""
        call = BulkCall(grant_id, Selection(query=query), Options(**options), hard=hard)
        return await self._store_batch(call, session)

    async def _store_batch(self, call: BulkCall, session: Any) -> Batch:
        now = self._now()
        most = MOST_IDS_SQLITE if self._ledger.engine.dialect.name == "sqlite" else None
        planned, total = plan_batch(call, now=now, metadata_key=self._metadata_key, most_ids=most)
        return await self._ledger.write(
            session,
            lambda connection: store_batch(connection, planned, total, now=now, cap=self._lane_cap, vault=self._vault),
        )
