"""`AsyncSendQueue`: the same queue for asyncio, over the same code of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, Unpack
from uuid import UUID

from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from sendq import clock
from sendq.enqueueing.batches import BulkCall, Changes, Which, plan_batch
from sendq.enqueueing.planning import (
    DEFAULT_APPLICATION,
    Expiry,
    Options,
    OptionsGiven,
    Send,
    indexed_key,
    least_one,
    plan_sends,
)
from sendq.enqueueing.query import Query
from sendq.enqueueing.senders import Senders
from sendq.errors import LedgerUnavailable
from sendq.ledger import admission
from sendq.ledger.batches import end_some, withdraw
from sendq.ledger.cancel import cancel
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_async_engine, translated
from sendq.ledger.db.joined import async_connection_of, connection_of
from sendq.ledger.reading import lookup, progress
from sendq.messages.content import Content, ContentFault
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.queue import stored_batch, stored_jobs
from sendq.rules.states import State
from sendq.rules.why import explain
from sendq.vault import Vault
from sendq.views import Batch, BatchView, Eta, Job, JobView, Priority, Why

T = TypeVar("T")


class AsyncSendQueue:
    """`SendQueue` for asyncio: the same methods with the same meaning, to be awaited.

    ``ledger`` is a database URL (a plain ``postgresql://`` means asyncpg, ``sqlite://`` aiosqlite) or an `AsyncEngine`.
    ``session`` takes an `AsyncSession` or `AsyncConnection`.
    """

    def __init__(
        self,
        ledger: str | URL | AsyncEngine,
        *,
        metadata_key: str = "key1",
        lane_cap: int | None = None,
        senders: Senders | None = None,
        vault: Vault | None = None,
        now: clock.Clock = clock.now,
    ) -> None:
        self._engine = ledger if isinstance(ledger, AsyncEngine) else open_async_engine(ledger)
        self._metadata_key = indexed_key(metadata_key)
        self._lane_cap = least_one(lane_cap)
        self._senders = senders
        self._vault = vault or Vault()
        self._now = now
        self._checked = False

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
        session: Any = None,
    ) -> Job:
        """See `SendQueue.send`."""
        options = Options(
            key=key,
            due_at=due_at,
            expires_at=expires_at,
            priority=priority,
            application=application,
            provider=provider,
            on_outcome=on_outcome,
            in_doubt=in_doubt,
        )
        return (await self._store_sends([Send(grant_id, message, options)], indexed=False, session=session))[0]

    async def send_many(self, sends: Iterable[Send], *, session: Any = None) -> list[Job]:
        """See `SendQueue.send_many`."""
        return await self._store_sends(list(sends), indexed=True, session=session)

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
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """See `SendQueue.modify`."""
        which = Which(message_ids=message_ids, thread_ids=thread_ids)
        changes = Changes(unread, starred, folders, metadata)
        call = BulkCall(grant_id, which, Options(**options), changes, whole_threads=whole_threads)
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
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """See `SendQueue.modify_matching`."""
        changes = Changes(unread, starred, folders, metadata)
        return await self._store_batch(BulkCall(grant_id, Which(query=query), Options(**options), changes), session)

    async def delete(
        self,
        grant_id: str,
        message_ids: Iterable[str] | None = None,
        *,
        thread_ids: Iterable[str] | None = None,
        hard: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """See `SendQueue.delete`."""
        which = Which(message_ids=message_ids, thread_ids=thread_ids)
        return await self._store_batch(BulkCall(grant_id, which, Options(**options), hard=hard), session)

    async def delete_matching(
        self,
        grant_id: str,
        query: Query,
        *,
        hard: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """See `SendQueue.delete_matching`."""
        return await self._store_batch(BulkCall(grant_id, Which(query=query), Options(**options), hard=hard), session)

    async def job(
        self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> JobView:
        """See `SendQueue.job`."""
        return await self._read(
            lambda connection: lookup.job(connection, lookup.job_id(connection, job_id, application, key))
        )

    async def why(
        self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> Why:
        """See `SendQueue.why`."""
        return await self._read(
            lambda connection: explain(
                lookup.surroundings(connection, lookup.job_id(connection, job_id, application, key)), now=self._now()
            )
        )

    async def eta(
        self,
        grant_id: str,
        *,
        operation: str = "send",
        due_at: datetime | None = None,
        priority: Priority = Priority.NORMAL,
        application: str = DEFAULT_APPLICATION,
    ) -> Eta:
        """See `SendQueue.eta`."""
        now = self._now()
        not_before = now if due_at is None else clock.micros(due_at)
        return await self._read(
            lambda connection: admission.eta(
                connection, application, grant_id, operation, priority=priority, not_before=not_before, now=now
            )
        )

    async def batch(
        self, batch_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> BatchView:
        """See `SendQueue.batch`."""
        return await self._read(
            lambda connection: progress.batch(
                connection, lookup.batch_id(connection, batch_id, application, key), now=self._now()
            )
        )

    async def cancel(self, job_id: str, *, session: Any = None) -> State:
        """See `SendQueue.cancel`."""
        wanted = lookup.parse_id(job_id, what="job")
        return await self._write(session, lambda connection: cancel(connection, wanted, now=self._now()))

    async def cancel_batch(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> None:
        """See `SendQueue.cancel_batch`."""

        def begin(connection: Connection) -> UUID:
            wanted = lookup.batch_id(connection, batch_id, application, key)
            withdraw(connection, wanted, now=self._now())
            return wanted

        wanted = await self._write(session, begin)
        after: UUID | None = UUID(int=0)
        while session is None and after is not None:
            step = partial(end_some, batch_id=wanted, after=after, now=self._now())
            after = await self._write(None, step)

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._engine.dispose()

    async def _store_sends(self, sends: Sequence[Send], *, indexed: bool, session: Any) -> list[Job]:
        now = self._now()
        await _measured(sends)
        planned = plan_sends(sends, indexed=indexed, now=now, metadata_key=self._metadata_key, senders=self._senders)
        if not sends:
            return []
        return await self._write(
            session, lambda c: stored_jobs(c, planned, now=now, cap=self._lane_cap, vault=self._vault)
        )

    async def _store_batch(self, call: BulkCall, session: Any) -> Batch:
        now = self._now()
        planned, total = plan_batch(call, now=now, metadata_key=self._metadata_key)
        return await self._write(
            session, lambda c: stored_batch(c, planned, total, now=now, cap=self._lane_cap, vault=self._vault)
        )

    async def _write(self, session: Any, action: Callable[[Connection], T]) -> T:
        with _translated():
            if session is not None:
                return await async_connection_of(session).run_sync(lambda joined: action(connection_of(joined)))
            await self._check_schema()
            async with self._engine.begin() as connection:
                return await connection.run_sync(action)

    async def _read(self, question: Callable[[Connection], T]) -> T:
        with _translated():
            await self._check_schema()
            async with self._engine.connect() as connection:
                await connection.execution_options(sendq_reads=True)
                return await connection.run_sync(question)

    async def _check_schema(self) -> None:
        if not self._checked:
            async with self._engine.connect() as connection:
                await connection.execution_options(sendq_reads=True)
                await connection.run_sync(migrate.require)
            self._checked = True


async def _measured(sends: Iterable[Send]) -> None:
    """Have the files of some sends measured in a thread: the loop must not wait for disks and digests."""
    contents = [content for send in sends if isinstance(send, Send) for content in _contents_of(send.message)]
    if contents:
        await asyncio.to_thread(_measure, contents)


def _contents_of(message: object) -> list[Content]:
    if isinstance(message, MimeMessage):
        return [message.content]
    return [one.content for one in message.attachments] if isinstance(message, Message) else []


def _measure(contents: Iterable[Content]) -> None:
    for content in contents:
        with suppress(ContentFault):  # told with all other problems, by whoever looks at it next
            content.measure()


@contextmanager
def _translated() -> Iterator[None]:
    with translated():
        try:
            yield
        except OSError as error:  # asyncpg's way to say that nobody listens; SQLAlchemy passes it through
            raise LedgerUnavailable(
                "the ledger cannot be reached; check the database URL and that the server runs"
            ) from error
