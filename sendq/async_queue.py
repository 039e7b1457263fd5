"""`AsyncSendQueue`: what a web application holds that runs on asyncio.

It writes rows to the ledger, in the caller's own transaction if asked to; workers in other processes do the rest. No
message broker is used here, and no HTTP call is made.

`SendQueue` (`sendq/queue.py`) is generated from this file by ``./dev generate``. A line that ends with the comment
``# asyncio only`` is left out there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Unpack, overload
from uuid import UUID

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only  # asyncio only

from sendq import changes, clock
from sendq.enqueueing.async_own_list import AsyncAsk, AsyncOwnList
from sendq.enqueueing.batch_sends import MOST_SENDS_SQLITE, NewBatch, Sends, check_batch
from sendq.enqueueing.expiry import Expiry
from sendq.enqueueing.measuring import measure_contents  # asyncio only
from sendq.enqueueing.merging import Render, check_merge, merged
from sendq.enqueueing.options import Options, Send, SendOptionsGiven
from sendq.enqueueing.planning import plan_sends, valid_lane_cap, valid_unsubscribe_url, wants_links
from sendq.enqueueing.senders import Senders
from sendq.enqueueing.suppressing import Hit
from sendq.errors import InvalidJob
from sendq.ids import new_id, parse_id
from sendq.ledger.batch_sends import Storing, add_to_batch, reading_once, store_new_batch
from sendq.ledger.batches import close_batch
from sendq.ledger.db.async_transactions import AsyncTransactions
from sendq.ledger.replacing import replace_message, send_instead
from sendq.ledger.secrets import stored_digest_key
from sendq.ledger.suppressing import Enqueuer
from sendq.messages.mark import valid_metadata_key
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.unsubscribe import Links
from sendq.methods.async_bulk import AsyncBulk
from sendq.methods.async_changing import AsyncChanging
from sendq.methods.async_reading import AsyncReading
from sendq.methods.async_suppressing import AsyncSuppressing
from sendq.rules.suppression import Suppressed
from sendq.rules.windows import Window
from sendq.scope import DEFAULT_APPLICATION
from sendq.vault import Vault
from sendq.views import Batch, Job, MergeCheck, Priority, Replacement


class AsyncSendQueue(AsyncBulk, AsyncReading, AsyncChanging, AsyncSuppressing):
    """A send queue on one ledger, for asyncio: the methods of `SendQueue`, awaited.

    Every method that takes ``session`` joins the transaction of an `AsyncSession` or `AsyncConnection`: if that rolls
    back, the call has stored nothing. One object serves all event loops of a process, each with its own connections,
    and may be created before a fork. It connects at the first call.

    Args:
        ledger: a database URL (``postgresql://…`` for asyncpg, ``postgresql+psycopg://…``, ``sqlite:///sendq.db`` for
            aiosqlite), or, for one event loop at a time, an `AsyncEngine` of yours.
        metadata_key: the metadata pair that carries the job's id: ``key1`` … ``key5``, the ones that Nylas can search.
        lane_cap: the most jobs that may wait for one grant. A call that would exceed it raises `LaneFull`, which says
            when the next job would be sent.
        senders: the addresses that a grant may send as: a mapping from grant ids to addresses, or a function. The
            sender is not checked for grants that it does not know.
        vault: encrypts what is stored of messages. Workers need the same keys. Default: no encryption.
        suppressed: the application's own suppression list: a function that returns which recipients get no mail
            (`sendq.enqueueing.own_list`). The list in the ledger is used in any case.
        unsubscribe_url: the https address of the unsubscribe endpoint, for messages with ``unsubscribe``.
        now: the clock, for tests.
        chance: random numbers from 0 to 1, excluded, for tests.

    Raises:
        ValueError: an argument is invalid, or the driver that the URL names is not installed.
    """

    def __init__(
        self,
        ledger: str | URL | AsyncEngine,
        *,
        metadata_key: str = "key1",
        lane_cap: int | None = None,
        senders: Senders | None = None,
        vault: Vault | None = None,
        suppressed: AsyncAsk | None = None,
        unsubscribe_url: str | None = None,
        now: clock.Clock = clock.now,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = AsyncTransactions(ledger)
        self._metadata_key = valid_metadata_key(metadata_key)
        self._lane_cap = valid_lane_cap(lane_cap)
        self._senders = senders
        self._vault = vault or Vault()
        self._own_list = AsyncOwnList(suppressed)
        self._enqueuer = Enqueuer()
        self._unsubscribe_url = valid_unsubscribe_url(unsubscribe_url)
        self._links: Links | None = None
        self._now = now
        self._chance = chance

    async def send(
        self,
        grant_id: str,
        message: Message | MimeMessage,
        *,
        key: str | None = None,
        due_at: datetime | None = None,
        expires_at: Expiry = None,
        priority: Priority | str | int = Priority.NORMAL,
        application: str = DEFAULT_APPLICATION,
        provider: str | None = None,
        on_outcome: str | None = None,
        in_doubt: str | None = None,
        tags: Mapping[str, str] | None = None,
        needs_approval: bool = False,
        suppressed: Suppressed | str = Suppressed.REFUSE,
        window: Window | None = None,
        traceparent: str | None = None,
        after: Job | UUID | str | None = None,
        delay: timedelta | None = None,
        unless: str | Collection[str] | None = None,
        reply_to: Job | UUID | str | None = None,
        session: Any = None,
    ) -> Job:
        """Enqueue one message for sending through ``grant_id``; it is durable once the transaction commits.

        If ``key`` was used before with the same content, this returns the first job and stores nothing. The other
        options are explained at `sendq.Options`.

        Raises:
            InvalidJob: lists every problem with its field; nothing was stored.
            SuppressedRecipients: recipients are on the suppression list; see ``suppressed``.
            SuppressionListFailed: the application's own list raised an error, or did not answer.
            LaneFull: too many jobs wait for this grant (only with ``lane_cap``).
            KeyConflict: the key was used before with other content.
            Unreadable: what the key names was encrypted with a key that this vault does not have.
            Retryable: the database aborted the transaction; run it again.
            LedgerUnavailable: the database cannot be reached.
            SchemaMismatch: the database needs a migration, or is newer than this code.
        """
        options = Options(
            key=key,
            due_at=due_at,
            expires_at=expires_at,
            priority=priority,
            application=application,
            provider=provider,
            on_outcome=on_outcome,
            in_doubt=in_doubt,
            tags=tags,
            needs_approval=needs_approval,
            suppressed=suppressed,
            window=window,
            traceparent=traceparent,
            after=after,
            delay=delay,
            unless=unless,
            reply_to=reply_to,
        )
        jobs = await self._store_sends([Send(grant_id, message, options)], indexed=False, session=session)
        return jobs[0]

    @overload
    async def send_many(self, sends: Iterable[Send], *, session: Any = None) -> list[Job]: ...
    @overload
    async def send_many(self, sends: Iterable[Send], *, batch: NewBatch, session: Any = None) -> Batch: ...
    async def send_many(
        self, sends: Iterable[Send], *, batch: NewBatch | None = None, session: Any = None
    ) -> list[Job] | Batch:
        """Enqueue many messages, all or none; a problem's field begins with its position (``[7].to[0].email``).

        With ``batch`` they are one thing, which is returned instead of the jobs: it has a progress, an expected end and
        one outcome, and can be cancelled. ``sends`` may then be a generator: it is read a thousand at a time, and texts
        that several of these messages have are stored once. A SQLite ledger takes 100,000 in one call. Messages whose
        key was used before are not enqueued again, and do not belong to the batch.

        The messages of a batch are read, and the application's own suppression list is asked, in the transaction: both
        should be fast, and on SQLite neither can write to the ledger's file, and all other writers wait. After
        `Retryable`, pass a new generator: this one was read. A repeat with the batch's key reads them for comparison.

        Raises what `send` raises. An exception that ``sends`` raises is passed on, and nothing is stored.
        """
        if batch is None:
            return await self._store_sends(list(sends), indexed=True, session=session)
        check_batch(batch)
        now, batch_id = self._now(), new_id()
        read = self._reading(sends, batch_id, now)(
            application=batch.application,
            tags=batch.tags,
            window=batch.window,
            spread=batch.spread,
            needs_approval=batch.needs_approval,
            with_digests=batch.key is not None,
        )
        with reading_once():
            return await self._ledger.write(
                session,
                lambda connection: store_new_batch(connection, batch, batch_id, read, self._storing(), now=now),
            )

    async def mail_merge(
        self,
        grant_id: str,
        message: Message,
        rows: Iterable[Mapping[str, str]],
        *,
        batch: NewBatch,
        render: Render | None = None,
        session: Any = None,
        **options: Unpack[SendOptionsGiven],
    ) -> Batch:
        """Enqueue one message for many recipients, each with fields of their own, as a batch: all or none.

        Args:
            grant_id: the account.
            message: without ``to``. ``{{first_name}}`` in its subject and body is replaced by the row's field, escaped
                in an HTML body. With a ``template``, the fields are the template's variables, and Nylas renders it.
            rows: a dict of strings for each recipient: ``email``, and as you like ``name``, ``key`` (of this message)
                and fields. May be a generator.
            batch: see `send_many`.
            render: makes the message for one recipient instead: it gets ``message``, with ``to`` filled in, and the
                row, and returns a `Message`.
            session: join this transaction.

        The other options are explained at `sendq.Options`, and are those of all messages. Raises what `send` raises; a
        problem's field begins with the row's position. An exception that ``rows`` or ``render`` raise is passed on.
        With ``suppressed="drop"``, suppressed recipients get no mail, and the others do: see `Batch.left_out`.
        """
        check_batch(batch)
        options.setdefault("application", batch.application)
        common = Options(**options)
        check_merge(message, common)
        sends = merged(grant_id, message, rows, options=common, render=render)
        return await self.send_many(sends, batch=batch, session=session)

    async def check_mail_merge(
        self,
        grant_id: str,
        message: Message,
        rows: Iterable[Mapping[str, str]],
        *,
        batch: NewBatch,
        render: Render | None = None,
        session: Any = None,
        problems_most: int = 1_000,
        **options: Unpack[SendOptionsGiven],
    ) -> MergeCheck:
        """What `mail_merge` would refuse or leave out, suppressed recipients too; nothing is enqueued.

        Up to ``problems_most`` problems are listed. Keys that were used before are found only when it is enqueued.
        Raises `InvalidJob` for problems of ``message`` and ``batch`` themselves.
        """
        check_batch(batch)
        options.setdefault("application", batch.application)
        common, now = Options(**options), self._now()
        check_merge(message, common)

        def check(connection: Connection) -> MergeCheck:
            # Any key will do: the links are not sent.
            key = stored_digest_key(connection, self._vault) or bytes(32)
            sends = Sends(
                merged(grant_id, message, rows, options=common, render=render), batch_id=new_id(),
                application=batch.application, tags=batch.tags, window=batch.window, spread=batch.spread, now=now,
                metadata_key=self._metadata_key, senders=self._senders, problems_most=problems_most,
            )  # fmt: skip
            try:
                links = Links(key, self._unsubscribe_url)
                left_out = self._storing().check(connection, sends, links, now=now)
            except InvalidJob as wrong:
                return MergeCheck(sends.number, 0, wrong.problems)
            return MergeCheck(sends.number, left_out.total(), ())

        return await self._ledger.read(check, session)

    async def add(
        self,
        batch_id: str,
        sends: Iterable[Send],
        *,
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> Batch:
        """Add messages to a batch that was left open, all or none, as in `send_many`.

        Several callers may add to it at the same time. The result's ``total`` is the number of messages that this call
        enqueued: a repeat after a crash skips those whose keys were used.

        ``grants``: for programs that decide who may see what, patterns of the only grants (``team-*``) that the batch
        may have, other callers' messages included; with any other it raises `NotFound`, and nothing is stored.

        Raises what `send` raises, and `NotFound`; `InvalidJob` also if the batch is closed or cancelled.
        """
        wanted, now = parse_id(batch_id, what="batch"), self._now()
        read = self._reading(sends, wanted, now)
        with reading_once():
            return await self._ledger.write(
                session,
                lambda connection: add_to_batch(connection, wanted, read, self._storing(), now=now, grants=grants),
            )

    async def close_batch(self, batch_id: str, *, grants: Collection[str] | None = None, session: Any = None) -> int:
        """Close a batch that was left open: nothing can be added any more, and it ends with its last job.

        Returns its total. It waits for transactions that `add` to it: close it after yours has committed, since of two
        that add and then close, one is aborted (`Retryable`). Closing it again does nothing. ``grants`` as in `add`.

        Raises `NotFound`, and `InvalidJob` for a batch of changes.
        """
        wanted = parse_id(batch_id, what="batch")
        return await self._ledger.write(
            session, lambda connection: close_batch(connection, wanted, now=self._now(), grants=grants)
        )

    async def replace(
        self,
        job_id: str,
        message: Message | MimeMessage,
        *,
        content: int | None = None,
        suppressed: Suppressed | str = Suppressed.REFUSE,
        by: str | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        session: Any = None,
    ) -> Replacement:
        """Replace the message of a send that waits: the same job and key, with other content.

        Everything else stays: due time, expiry, priority, holds, tags, batch. The message is checked as in `send`. The
        event of the change has keyed digests of the old and the new request. A later `send` with the key is compared
        with the new message (and its grant), whatever times it asks for; the old message is a `KeyConflict`. With the
        database roles of ``deploy/roles.sql``, this needs ``sendq_worker``: applications cannot change what is stored.

        Args:
            job_id: the job. One of a batch can be replaced too; the batch's key still names the messages as they were.
            message: the new message, complete.
            content: the content version (`JobView.content_version`) that it replaces; if the message has been replaced
                since, nothing is changed. None: whatever its content is now.
            suppressed: what to do about suppressed recipients, as in `send`.
            by, reason: author and reason, recorded with the change; by default ``program`` and none.
            dry_run: check everything, and change nothing.
            session: join this transaction.

        Raises:
            NotWaiting: its call is being made, it may have been sent, it has ended, or it has another content version.
                Nothing was changed.
            InvalidArgument: the job is not a send.
            NotFound: there is no such job.
            InvalidJob, SuppressedRecipients, SuppressionListFailed, Unreadable: as in `send`.
        """
        author, wanted = changes.author_of(by, reason), parse_id(job_id, what="job")
        changes.check_content(content)
        await measure_contents([Send("", message)])  # asyncio only
        send = await self._ledger.read(
            lambda connection: send_instead(connection, wanted, message, suppressed, content=content), session
        )
        links = await self._links_for(session) if wants_links(send) else None
        settings: dict[str, Any] = {"metadata_key": self._metadata_key, "senders": self._senders, "links": links}
        plan = partial(plan_sends, [send], indexed=False, now=self._now(), replaces=wanted, **settings)
        plan()
        own = await self._own_list.hits([send])
        return await self._ledger.write(
            session,
            lambda connection: replace_message(
                connection, wanted, send, plan, author, own=own, enqueuer=self._enqueuer, vault=self._vault,
                now=self._now(), content=content, dry_run=dry_run,
            ),
        )  # fmt: skip

    async def close(self) -> None:
        """Close the pooled connections. The queue opens new ones if it is used again."""
        await self._ledger.close()

    async def _store_sends(self, sends: Sequence[Send], *, indexed: bool, session: Any) -> list[Job]:
        now = self._now()
        await measure_contents(sends)  # asyncio only
        links = await self._links_for(session) if any(wants_links(send) for send in sends) else None
        settings: dict[str, Any] = {"metadata_key": self._metadata_key, "senders": self._senders, "links": links}
        plan = partial(plan_sends, sends, indexed=indexed, now=now, **settings)
        planned = plan()
        if not sends:
            return []
        own = await self._own_list.hits(sends)
        return await self._ledger.write(
            session,
            lambda connection: self._enqueuer.store(
                connection, sends, planned, lambda verdict: plan(instead=verdict.instead), own=own, indexed=indexed,
                now=now, cap=self._lane_cap, vault=self._vault, last=session is None,
            ),
        )  # fmt: skip

    def _reading(self, sends: Iterable[Send], batch_id: UUID, now: clock.Micros) -> Callable[..., Sends]:
        """Reads the messages of a batch, once its application, tags, window and the like are known."""
        most = MOST_SENDS_SQLITE if self._ledger.engine.dialect.name == "sqlite" else None
        settings: dict[str, Any] = {"metadata_key": self._metadata_key, "senders": self._senders}
        settings["chance"] = self._chance
        return lambda **of_batch: Sends(sends, batch_id=batch_id, most=most, now=now, **of_batch, **settings)

    def _storing(self) -> Storing:
        def own(part: Sequence[Send]) -> list[Hit]:
            return await_only(self._own_list.hits(part))

        return Storing(self._enqueuer, own, self._links_within, self._lane_cap, self._vault)
