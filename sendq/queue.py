"""`SendQueue`: what a web application holds.

It writes rows, in the caller's own transaction if it likes; workers, elsewhere, do the rest. No broker is touched and
nothing goes over HTTP here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import Any, TypeVar, Unpack
from uuid import UUID

from sqlalchemy import URL, Connection, Engine

from sendq import clock
from sendq.enqueueing.batches import BulkCall, Changes, Which, plan_batch
from sendq.enqueueing.planning import (
    DEFAULT_APPLICATION,
    Expiry,
    Options,
    OptionsGiven,
    Planned,
    Send,
    indexed_key,
    least_one,
    plan_sends,
)
from sendq.enqueueing.query import Query
from sendq.enqueueing.senders import Senders
from sendq.ledger import admission
from sendq.ledger.batches import end_some, withdraw
from sendq.ledger.cancel import cancel
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, reading, translated, writing
from sendq.ledger.db.joined import connection_of
from sendq.ledger.enqueue import store
from sendq.ledger.reading import lookup, progress
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.rules.states import State
from sendq.rules.why import explain
from sendq.vault import Vault
from sendq.views import Batch, BatchView, Eta, Job, JobView, Priority, Why

T = TypeVar("T")


class SendQueue:
    """A queue over one ledger.

    ``ledger`` is a database URL (``postgresql+psycopg://…``, ``sqlite:///sendq.db``) or an `Engine` of yours.
    ``metadata_key`` is the name of the metadata pair that carries the job's id (``key1`` … ``key5`` are the ones that
    Nylas can search). ``lane_cap``: so many jobs may wait for one grant; who enqueues more gets `LaneFull`, with the
    time at which another one would go. ``senders`` says as whom a grant may send (a mapping from grant ids to
    addresses, or a function; a grant that it does not know is not checked). ``vault`` seals what is stored of messages;
    the workers need its keys (default: no sealing).

    One object serves all threads, and may be made before a fork (``gunicorn --preload``): no connection is opened
    before the first call, and a child opens its own. Every method that takes ``session`` joins the transaction of a
    SQLAlchemy `Session` or `Connection`, or of ``django.db.connection`` inside ``atomic()``: roll back, and the job was
    never there.
    """

    def __init__(
        self,
        ledger: str | URL | Engine,
        *,
        metadata_key: str = "key1",
        lane_cap: int | None = None,
        senders: Senders | None = None,
        vault: Vault | None = None,
        now: clock.Clock = clock.now,
    ) -> None:
        self._engine = ledger if isinstance(ledger, Engine) else open_engine(ledger)
        self._metadata_key = indexed_key(metadata_key)
        self._lane_cap = least_one(lane_cap)
        self._senders = senders
        self._vault = vault or Vault()
        self._now = now
        self._checked = False
        _forget_connections_after_fork(self)

    def send(
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
        """Accept one message for sending through ``grant_id``; durable once the transaction commits.

        With a ``key`` that was used before for the same content, the first job is given back and nothing is stored.
        What the other arguments mean stands at `sendq.enqueueing.planning.Options`.

        Raises:
            InvalidJob: with every problem and its field; nothing was stored.
            LaneFull: too many jobs wait for this grant (only with ``lane_cap``).
            KeyConflict: the key belongs to other content.
            Unreadable: what the key stands for is sealed with an encryption key that is not given here.
            Retryable: the database broke the transaction off; run it again.
            LedgerUnavailable, SchemaMismatch: the ledger is away, or is not this version's.
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
        )
        return self._store_sends([Send(grant_id, message, options)], indexed=False, session=session)[0]

    def send_many(self, sends: Iterable[Send], *, session: Any = None) -> list[Job]:
        """Accept many messages, all or none; a problem's field begins with its position (``[7].to[0].email``).

        Raises what `send` raises.
        """
        return self._store_sends(list(sends), indexed=True, session=session)

    def modify(
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
        """Accept one modification for each of ``message_ids``, or of the messages of each of ``thread_ids``.

        Exactly one of the two. The result is a batch of jobs, one request each, for Nylas has no bulk endpoint. The
        messages of threads are found by a walk: listings in small pages, which survive any crash; the batch's total is
        known when it is over. With ``whole_threads`` each thread is one request instead (``unread``, ``starred`` and
        ``folders`` alone): Nylas fans it out to all messages, which at Microsoft can pass the API's deadline (504) when
        a thread is long, and the order against changes of its single messages is not kept.

        ``folders`` and ``metadata`` **replace** what a message had before (of a message that this queue sent, the
        metadata pair with its job's id is kept). Microsoft takes exactly one folder. Changes of one message run
        strictly one after another, in the order in which they were asked for.

        The other options are those of `sendq.enqueueing.planning.Options`. Raises what `send` raises; what the ids
        raise while they are read comes out as it is, and nothing was stored.
        """
        which = Which(message_ids=message_ids, thread_ids=thread_ids)
        changes = Changes(unread, starred, folders, metadata)
        call = BulkCall(grant_id, which, Options(**options), changes, whole_threads=whole_threads)
        return self._store_batch(call, session)

    def modify_matching(
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
        """Accept one modification for each message of the account that fits ``query``, see `modify`.

        A walk lists all of them first, twenty at a time, and only then the first is modified: a change of what the
        query asks for would shift the pages. The batch's total is None until the walk is over. A message of which the
        same fields were changed by a later call meanwhile is left as it is (its job is cancelled: ``overtaken``).
        """
        changes = Changes(unread, starred, folders, metadata)
        return self._store_batch(BulkCall(grant_id, Which(query=query), Options(**options), changes), session)

    def delete(
        self,
        grant_id: str,
        message_ids: Iterable[str] | None = None,
        *,
        thread_ids: Iterable[str] | None = None,
        hard: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Accept one deletion for each of ``message_ids``, or of the messages of each of ``thread_ids``: to the trash.

        Messages of threads are found as in `modify`. With ``hard`` they are deleted for good. Nylas does that only if
        "Enable hard delete" is switched on in its dashboard, and Google only for grants with the full Gmail scope
        (``https://mail.google.com/``).
        """
        which = Which(message_ids=message_ids, thread_ids=thread_ids)
        return self._store_batch(BulkCall(grant_id, which, Options(**options), hard=hard), session)

    def delete_matching(
        self,
        grant_id: str,
        query: Query,
        *,
        hard: bool = False,
        session: Any = None,
        **options: Unpack[OptionsGiven],
    ) -> Batch:
        """Accept one deletion for each message that fits ``query``; see `modify_matching` and `delete`."""
        return self._store_batch(BulkCall(grant_id, Which(query=query), Options(**options), hard=hard), session)

    def job(
        self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> JobView:
        """A job by its id, or by the key it was enqueued with. Raises `NotFound`."""
        return self._reading(
            lambda connection: lookup.job(connection, lookup.job_id(connection, job_id, application, key))
        )

    def why(self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION) -> Why:
        """Why a job is where it is, and until when. Raises `NotFound`."""
        return self._reading(
            lambda connection: explain(
                lookup.surroundings(connection, lookup.job_id(connection, job_id, application, key)), now=self._now()
            )
        )

    def eta(
        self,
        grant_id: str,
        *,
        operation: str = "send",
        due_at: datetime | None = None,
        priority: Priority = Priority.NORMAL,
        application: str = DEFAULT_APPLICATION,
    ) -> Eta:
        """When a job for this grant, enqueued now, would go: by the lane's own pace, its holds and those ahead.

        ``operation``: ``send`` or ``modify``.
        """
        now = self._now()
        not_before = now if due_at is None else clock.micros(due_at)
        return self._reading(
            lambda connection: admission.eta(
                connection, application, grant_id, operation, priority=priority, not_before=not_before, now=now
            )
        )

    def batch(
        self, batch_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> BatchView:
        """A batch by its id or key, with its progress. Raises `NotFound`."""
        return self._reading(
            lambda connection: progress.batch(
                connection, lookup.batch_id(connection, batch_id, application, key), now=self._now()
            )
        )

    def cancel(self, job_id: str, *, session: Any = None) -> State:
        """Withdraw a job that has not gone out; gives the state it is in then.

        ``cancelled``: it will not go out. ``sending``: it is on the wire, and is cancelled only if the answer is "not
        sent". ``in_doubt``: it may have gone out before, and is not tried again. Any other: it had ended already.

        Raises `NotFound`.
        """
        with self._writing(session) as connection:
            return cancel(connection, lookup.parse_id(job_id, what="job"), now=self._now())

    def cancel_batch(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> None:
        """Withdraw a batch: nothing of it begins once this is committed.

        Its waiting jobs end a few hundred at a time, here and at once; with ``session`` only the word is given, and
        the workers end them. What is on the wire is cancelled only if the answer is "not done". Nothing happens to a
        batch that has ended.

        Raises `NotFound`.
        """
        with self._writing(session) as connection:
            wanted = lookup.batch_id(connection, batch_id, application, key)
            withdraw(connection, wanted, now=self._now())
        after: UUID | None = UUID(int=0)
        while session is None and after is not None:
            with self._writing(None) as connection:
                after = end_some(connection, wanted, after=after, now=self._now())

    def close(self) -> None:
        """Close the pooled connections. The queue opens new ones if it is used again."""
        self._engine.dispose()

    def _store_sends(self, sends: Sequence[Send], *, indexed: bool, session: Any) -> list[Job]:
        now = self._now()
        planned = plan_sends(sends, indexed=indexed, now=now, metadata_key=self._metadata_key, senders=self._senders)
        if not sends:
            return []
        with self._writing(session) as connection:
            return stored_jobs(connection, planned, now=now, cap=self._lane_cap, vault=self._vault)

    def _store_batch(self, call: BulkCall, session: Any) -> Batch:
        now = self._now()
        planned, total = plan_batch(call, now=now, metadata_key=self._metadata_key)
        with self._writing(session) as connection:
            return stored_batch(connection, planned, total, now=now, cap=self._lane_cap, vault=self._vault)

    @contextmanager
    def _writing(self, session: Any) -> Iterator[Connection]:
        if session is None:
            self._check_schema()
            with writing(self._engine) as connection:
                yield connection
        else:
            with translated():
                yield connection_of(session)

    def _reading(self, question: Callable[[Connection], T]) -> T:
        self._check_schema()
        with reading(self._engine) as connection:
            return question(connection)

    def _check_schema(self) -> None:
        if not self._checked:
            migrate.require(self._engine)
            self._checked = True


def stored_jobs(
    connection: Connection, planned: Planned, *, now: clock.Micros, cap: int | None, vault: Vault
) -> list[Job]:
    """Store planned sends; for each its job, which may be an older one that its key names."""
    found = store_whole(connection, planned, now=now, cap=cap, vault=vault)
    return [
        Job(str(found[name]), existed=True) if name is not None and name in found else Job(str(job_id))
        for job_id, name in zip(planned.ids, planned.names, strict=True)
    ]


def stored_batch(
    connection: Connection, planned: Planned, total: int | None, *, now: clock.Micros, cap: int | None, vault: Vault
) -> Batch:
    """Store a planned batch, or give the older one that its key names."""
    found = store_whole(connection, planned, now=now, cap=cap, vault=vault)
    name = planned.names[0]
    if name is not None and name in found:
        return Batch(str(found[name]), total, existed=True)
    return Batch(str(planned.ids[0]), total)


def store_whole(
    connection: Connection, planned: Planned, *, now: clock.Micros, cap: int | None, vault: Vault
) -> Mapping[tuple[str, str], Any]:
    """All of a plan or nothing, also for a caller who catches the error and commits the rest of its transaction."""
    may_break_off = len(planned.plan.keys) > 1 or cap is not None or bool(planned.plan.contents)
    if may_break_off:
        _begin_before_savepoint(connection)
    with connection.begin_nested() if may_break_off else nullcontext():
        found = store(connection, planned.plan, at=now, vault=vault)
        if cap is not None and len(found) < len(planned.ids):
            lanes = [(wake["application"], wake["grant_id"]) for wake in planned.plan.wakes]
            admission.admit(connection, lanes, cap=cap, now=now)
        return found


def _begin_before_savepoint(connection: Connection) -> None:
    """On an engine that is not ours, Python's sqlite3 begins no transaction before the first INSERT.

    A savepoint would be the outermost then, and its release a commit that the caller did not ask for.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _forget_connections_after_fork(queue: SendQueue) -> None:
    """A forked child must not speak on its parent's sockets: it leaves them open and opens its own.

    SQLite's idle connections are closed before the fork. A child that inherits one also inherits the belief that its
    process holds the file's locks, which it does not: whoever closes first then deletes the log that the other writes.
    """
    weak = weakref.ref(queue)

    def in_parent() -> None:
        forking = weak()
        if forking is not None and forking._engine.dialect.name == "sqlite":
            forking._engine.dispose()

    def in_child() -> None:
        forked = weak()
        if forked is not None:
            forked._engine.dispose(close=False)

    os.register_at_fork(before=in_parent, after_in_child=in_child)
