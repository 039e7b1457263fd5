"""`SendQueue`: what a web application holds.

It writes rows to the ledger, in the caller's own transaction if asked to; workers in other processes do the rest. No
message broker is used here, and no HTTP call is made.

Generated from ``sendq/async_queue.py`` by ``./dev generate``: change that file, not this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Unpack, overload
from uuid import UUID

from sqlalchemy import URL, Connection, Engine

from sendq import changes, clock
from sendq.enqueueing.batch_sends import MOST_SENDS_SQLITE, NewBatch, Sends, check_batch
from sendq.enqueueing.batches import MOST_IDS_SQLITE, BulkCall, Changes, Selection, plan_batch
from sendq.enqueueing.expiry import Expiry
from sendq.enqueueing.merging import Render, check_merge, merged
from sendq.enqueueing.own_list import Ask, OwnList
from sendq.enqueueing.planning import (
    Options,
    OptionsGiven,
    Send,
    plan_sends,
    valid_lane_cap,
    valid_unsubscribe_url,
    wants_links,
)
from sendq.enqueueing.query import Query
from sendq.enqueueing.senders import Senders
from sendq.enqueueing.shared import Shared
from sendq.enqueueing.suppressing import Hit
from sendq.filter_checks import job_filter, limit_of, members_of, name_of
from sendq.ids import new_id, parse_id
from sendq.ledger import admission, waiting_jobs
from sendq.ledger.batch_sends import Storing, add_to_batch, store_new_batch
from sendq.ledger.batches import cancel_batch, close_batch, end_some
from sendq.ledger.cancel import cancel
from sendq.ledger.db.transactions import Transactions
from sendq.ledger.operators import suppressions as lists
from sendq.ledger.reading import batch as batch_reading
from sendq.ledger.reading import grants, lookup
from sendq.ledger.reading import jobs as jobs_reading
from sendq.ledger.reading import why as why_reading
from sendq.ledger.secrets import digest_key
from sendq.ledger.storing import store_batch
from sendq.ledger.suppressing import Enqueuer
from sendq.messages.mark import valid_metadata_key
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.unsubscribe import Links, link_to
from sendq.rules.states import State
from sendq.rules.suppression import Suppressed
from sendq.rules.waiting_job import Change
from sendq.scope import DEFAULT_APPLICATION
from sendq.suppression_list import checked
from sendq.vault import Vault
from sendq.views import Batch, BatchView, Eta, GrantView, Job, JobCounts, JobLine, JobView, Page, Priority, Why
from sendq.views.suppressions import Suppression


class SendQueue:
    """A send queue on one ledger.

    Every method that takes ``session`` joins the transaction of a SQLAlchemy `Session` or `Connection`, or of
    ``django.db.connection`` inside ``atomic()``: if that rolls back, the call has stored nothing. One object serves
    all threads, and may be created before a fork (``gunicorn --preload``): it connects at the first call, and a child
    process opens new connections.

    Args:
        ledger: a database URL (``postgresql://…`` for psycopg 3, ``postgresql+psycopg2://…``, ``sqlite:///sendq.db``),
            or an `Engine` of yours.
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

    Raises:
        ValueError: an argument is invalid, or the driver that the URL names is not installed.
    """

    def __init__(
        self,
        ledger: str | URL | Engine,
        *,
        metadata_key: str = "key1",
        lane_cap: int | None = None,
        senders: Senders | None = None,
        vault: Vault | None = None,
        suppressed: Ask | None = None,
        unsubscribe_url: str | None = None,
        now: clock.Clock = clock.now,
    ) -> None:
        self._ledger = Transactions(ledger)
        self._metadata_key = valid_metadata_key(metadata_key)
        self._lane_cap = valid_lane_cap(lane_cap)
        self._senders = senders
        self._vault = vault or Vault()
        self._own_list = OwnList(suppressed)
        self._enqueuer = Enqueuer()
        self._unsubscribe_url = valid_unsubscribe_url(unsubscribe_url)
        self._links: Links | None = None
        self._now = now

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
        tags: Mapping[str, str] | None = None,
        suppressed: Suppressed | str = Suppressed.REFUSE,
        traceparent: str | None = None,
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
            suppressed=suppressed,
            traceparent=traceparent,
        )
        jobs = self._store_sends([Send(grant_id, message, options)], indexed=False, session=session)
        return jobs[0]

    @overload
    def send_many(self, sends: Iterable[Send], *, session: Any = None) -> list[Job]: ...
    @overload
    def send_many(self, sends: Iterable[Send], *, batch: NewBatch, session: Any = None) -> Batch: ...
    def send_many(
        self, sends: Iterable[Send], *, batch: NewBatch | None = None, session: Any = None
    ) -> list[Job] | Batch:
        """Enqueue many messages, all or none; a problem's field begins with its position (``[7].to[0].email``).

        With ``batch`` they are one thing, which is returned instead of the jobs: it has a progress, an expected end and
        one outcome, and can be cancelled. ``sends`` may then be a generator: it is read a thousand at a time, and texts
        that several of these messages have are stored once. A SQLite ledger takes 100,000 in one call. Messages whose
        key was used before are not enqueued again, and do not belong to the batch.

        Raises what `send` raises. An exception that ``sends`` raises is passed on, and nothing is stored.
        """
        if batch is None:
            return self._store_sends(list(sends), indexed=True, session=session)
        check_batch(batch)
        now, batch_id = self._now(), new_id()
        read = self._reading(sends, batch_id, self._links_for(session), now)(batch.application, batch.tags)
        return self._ledger.write(
            session,
            lambda connection: store_new_batch(connection, batch, batch_id, read, self._storing(), now=now),
        )

    def mail_merge(
        self,
        grant_id: str,
        message: Message,
        rows: Iterable[Mapping[str, str]],
        *,
        batch: NewBatch,
        render: Render | None = None,
        session: Any = None,
        **options: Unpack[OptionsGiven],
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
        """
        check_batch(batch)
        options.setdefault("application", batch.application)
        common = Options(**options)
        check_merge(message, common)
        sends = merged(grant_id, message, rows, options=common, render=render)
        return self.send_many(sends, batch=batch, session=session)

    def add(self, batch_id: str, sends: Iterable[Send], *, session: Any = None) -> Batch:
        """Add messages to a batch that was left open, all or none, as in `send_many`.

        Several callers may add to it at the same time. The result's ``total`` is the number of messages that this call
        enqueued: a repeat after a crash skips those whose keys were used.

        Raises what `send` raises, and `NotFound`; `InvalidJob` also if the batch is closed or cancelled.
        """
        wanted, now = parse_id(batch_id, what="batch"), self._now()
        read = self._reading(sends, wanted, self._links_for(session), now)
        return self._ledger.write(
            session, lambda connection: add_to_batch(connection, wanted, read, self._storing(), now=now)
        )

    def close_batch(self, batch_id: str, *, session: Any = None) -> int:
        """Close a batch that was left open: nothing can be added any more, and it ends with its last job.

        Returns its total. It waits for calls of `add` that are under way. Closing it again does nothing.

        Raises `NotFound`, and `InvalidJob` for a batch of changes.
        """
        wanted = parse_id(batch_id, what="batch")
        return self._ledger.write(session, lambda connection: close_batch(connection, wanted, now=self._now()))

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
        shared_from: str | None = None,
        shared_folder_id: str | None = None,
        query_imap: bool | None = None,
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
            session: join this transaction.

        Raises what `send` raises. An exception that ``message_ids`` or ``thread_ids`` raise while they are read is
        passed on, and nothing is stored.
        """
        selection = Selection(message_ids=message_ids, thread_ids=thread_ids)
        changes = Changes(unread, starred, folders, metadata)
        shared = Shared(shared_from, shared_folder_id, query_imap)
        call = BulkCall(grant_id, selection, Options(**options), changes, whole_threads=whole_threads, shared=shared)
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
        """Enqueue a change for every message of the account that matches ``query``; otherwise like `modify`.

        Workers list all matching messages, twenty per page, before they change the first one, because a change can
        alter what matches and shift the pages. The batch's total is None until then. If a later call changes the same
        fields of a message in the meantime, that message is skipped (its job is cancelled, rule ``overtaken``).
        """
        changes = Changes(unread, starred, folders, metadata)
        call = BulkCall(grant_id, Selection(query=query), Options(**options), changes)
        return self._store_batch(call, session)

    def delete(
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
        return self._store_batch(call, session)

    def delete_matching(
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
        return self._store_batch(call, session)

    def job(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> JobView:
        """A job with its attempts, by its id or by the key it was enqueued with. Raises `NotFound`."""

        def query(connection: Connection) -> JobView:
            return lookup.job(connection, lookup.job_id(connection, job_id, application, key))

        return self._ledger.read(query, session)

    def jobs(
        self,
        grant_id: str | None = None,
        *,
        application: str = DEFAULT_APPLICATION,
        state: State | str | Iterable[State | str] | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        session: Any = None,
    ) -> Page[JobLine]:
        """Jobs of a grant, of a batch, with a tag (``campaign=may``), in some states, or of a key, page by page.

        The most recently enqueued comes first.

        Pass a page's ``next`` as ``cursor`` for the following one. ``since`` and ``until``: when they were enqueued.
        Without ``grant_id``, a job that was enqueued a moment ago is not found until the dispatcher has seen it. Raises
        `InvalidArgument`, and `NotFound` for an unknown key.
        """
        scope = None if grant_id is None and (batch_id is not None or key is not None) else application
        filters = job_filter(scope, None, grant_id, None, batch_id, since, until, tag)
        which = jobs_reading.JobQuery(filters, states=members_of("state", state, State))
        size, named = limit_of(limit), name_of("key", key)

        def query(connection: Connection) -> Page[JobLine]:
            wanted = which if named is None else jobs_reading.of_key(connection, which, application, named)
            return jobs_reading.jobs(connection, wanted, after=cursor, limit=size)

        return self._ledger.read(query, session)

    def count(
        self,
        grant_id: str | None = None,
        *,
        application: str = DEFAULT_APPLICATION,
        state: State | str | Iterable[State | str] | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        session: Any = None,
    ) -> JobCounts:
        """The number of jobs in each state; the filters are those of `jobs`. Counts up to 100,000 jobs."""
        scope = None if grant_id is None and batch_id is not None else application
        filters = job_filter(scope, None, grant_id, None, batch_id, since, until, tag)
        which = jobs_reading.JobQuery(filters, states=members_of("state", state, State))
        return self._ledger.read(lambda connection: jobs_reading.count(connection, which), session)

    def why(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> Why:
        """Why a job is in its state: what it waits for and until when, or why it ended. Raises `NotFound`."""

        def query(connection: Connection) -> Why:
            found = lookup.job_id(connection, job_id, application, key)
            return why_reading.why(connection, found, now=self._now())

        return self._ledger.read(query, session)

    def grant(self, grant_id: str, *, application: str = DEFAULT_APPLICATION, session: Any = None) -> GrantView:
        """Whether a grant is connected, what holds it and until when, and how many of its jobs wait.

        Of a grant that has had no job yet, ``known`` is False. Nylas is not asked: a grant that needs its owner to sign
        in again is known to do so once a call or a webhook has said it.
        """
        return self._ledger.read(
            lambda connection: grants.grant(connection, application, grant_id, now=self._now()), session
        )

    def eta(
        self,
        grant_id: str,
        *,
        operation: str = "send",
        due_at: datetime | None = None,
        priority: Priority = Priority.NORMAL,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> Eta:
        """When a job enqueued now would be carried out: an estimate from the grant's pace, its holds and its queue.

        ``operation``: ``send`` or ``modify``.
        """
        now = self._now()
        not_before = now if due_at is None else clock.micros(due_at)

        def query(connection: Connection) -> Eta:
            return admission.eta(
                connection, application, grant_id, operation, priority=priority, not_before=not_before, now=now
            )

        return self._ledger.read(query, session)

    def batch(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> BatchView:
        """A batch with its progress, by its id or key. Raises `NotFound`."""

        def query(connection: Connection) -> BatchView:
            found = lookup.batch_id(connection, batch_id, application, key)
            return batch_reading.batch(connection, found, now=self._now())

        return self._ledger.read(query, session)

    def cancel(self, job_id: str, *, session: Any = None) -> State:
        """Cancel a job that has not been carried out yet. Returns the state it is in afterwards.

        ``cancelled``: it will not be carried out. ``sending``: a request is in progress, and the job is cancelled only
        if that request turns out not to have been carried out. ``in_doubt``: an earlier request may have been carried
        out; none will follow. Any other state: the job had already ended.

        Raises `NotFound`.
        """
        wanted = parse_id(job_id, what="job")
        return self._ledger.write(session, lambda connection: cancel(connection, wanted, now=self._now()))

    def cancel_batch(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> None:
        """Cancel a batch: once this is committed, none of its waiting jobs starts.

        This ends the waiting jobs a few hundred at a time before it returns. With ``session`` it records the request
        only, and workers end them. A request in progress is handled as in `cancel`. Does nothing if the batch has
        ended.

        Raises `NotFound`.
        """

        def request(connection: Connection) -> UUID:
            found = lookup.batch_id(connection, batch_id, application, key)
            cancel_batch(connection, found, now=self._now())
            return found

        found = self._ledger.write(session, request)
        if session is not None:
            return
        after: UUID | None = UUID(int=0)
        while after is not None:
            step = partial(end_some, batch_id=found, after=after, now=self._now())
            after = self._ledger.write(None, step)

    def reschedule(
        self,
        job_id: str | None = None,
        *,
        due_at: datetime | None,
        expires_at: Expiry = None,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """Change when a job that waits, or the waiting jobs of a batch, may begin. Returns how many were changed.

        This replaces the wait before a retry, too; a hold remains. To change several things at once, pass ``session``.

        Args:
            job_id, key, batch_id: give one; a key names a job or a batch.
            due_at: no earlier than this (aware). None: at once.
            expires_at: the new expiry, or `NEVER`. None: the expiry stays, and ``due_at`` must be before it.
            by, reason: author and reason, recorded with the change; by default ``program`` and none.
            session: join this transaction. Without it, each few hundred jobs of a batch are changed in one.

        Raises:
            NotWaiting: its call is being made, its outcome is unknown, or it has ended. Jobs of a batch of which this
                is true are left as they are.
            InvalidArgument: an argument is invalid, or it would expire before it is due.
            NotFound: there is no such job, batch or key.
        """
        change = changes.reschedule_of(due_at, expires_at, now=self._now())
        return self._change(change, job_id, key, batch_id, application, by, reason, session)

    def set_priority(
        self,
        job_id: str | None = None,
        *,
        priority: Priority | str | int,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """Change the priority of a job that waits, or of the waiting jobs of a batch; the rest as in `reschedule`."""
        change = changes.priority_of(priority)
        return self._change(change, job_id, key, batch_id, application, by, reason, session)

    def hold(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """Keep a job that waits, or the waiting jobs of a batch, from beginning until `release`; the rest as in
        `reschedule`.

        A job that is held still expires. Later changes of the same message wait for it. Jobs that a batch's search
        finds afterwards are held too.
        """
        return self._change(changes.HOLD, job_id, key, batch_id, application, by, reason, session)

    def release(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """End a `hold` of a job or batch: it may begin at its due time, or when its retry is due."""
        return self._change(changes.RELEASE, job_id, key, batch_id, application, by, reason, session)

    def suppress(
        self,
        recipient: str,
        *,
        category: str | None = None,
        application: str = DEFAULT_APPLICATION,
        source: str = changes.PROGRAM,
        session: Any = None,
    ) -> bool:
        """Put a recipient, an address or the digest of one, on the suppression list; False: it is on it already.

        ``category``: no more mail of it; None: no mail at all. ``source``: shown with the entry.
        """
        given, vault, now = checked([recipient], category), self._vault, self._now()
        act = partial(lists.add, given=given, application=application, source=source, vault=vault, now=now)
        self._enqueuer.forget_what_is_remembered()
        return self._ledger.write(session, act) > 0

    def unsuppress(
        self,
        recipient: str,
        *,
        category: str | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> bool:
        """Remove a recipient from the suppression list: the entry of a category, or (None) the one for all mail.

        False: there is none. Jobs that ended because of it can be retried.
        """
        act = partial(lists.remove, given=checked([recipient], category), application=application, vault=self._vault)
        return self._ledger.write(session, act) > 0

    def suppressions(
        self, recipient: str, *, application: str = DEFAULT_APPLICATION, session: Any = None
    ) -> tuple[Suppression, ...]:
        """The entries of a recipient, an address or the digest of one. `Operators.suppressions` lists all of them."""
        (given,) = checked([recipient], None)
        query = partial(lists.entries, application=application, recipient=given, vault=self._vault, limit=1_000)
        return (self._ledger.read(query, session)).items

    def unsubscribe_url(
        self, recipient: str, category: str, *, application: str = DEFAULT_APPLICATION, session: Any = None
    ) -> str:
        """The link with which a recipient unsubscribes from a category, for the text of a message.

        It is that of ``Message(unsubscribe=…)``. Raises `InvalidArgument`, and ``ValueError`` without an endpoint.
        """
        checked([recipient], category)
        if self._unsubscribe_url is None:
            raise ValueError("unsubscribe_url: the queue has none; pass it to the queue")
        token = (self._links_for(session)).token(application, category, recipient)
        return link_to(self._unsubscribe_url, token)

    def unsubscribe(self, token: str, *, session: Any = None) -> bool:
        """Put the person whom the token of a link names on the list of its category; False: the token is not valid.

        For an endpoint of your own; `sendq.webhooks` has one. Safe to repeat.
        """
        act = partial(lists.unsubscribe, token=token, vault=self._vault, now=self._now())
        self._enqueuer.forget_what_is_remembered()
        return self._ledger.write(session, act)

    def close(self) -> None:
        """Close the pooled connections. The queue opens new ones if it is used again."""
        self._ledger.close()

    def _change(
        self,
        change: Change,
        job_id: str | None,
        key: str | None,
        batch_id: str | None,
        application: str,
        by: str | None,
        reason: str | None,
        session: Any,
    ) -> int:
        author, now = changes.author_of(by, reason), self._now()
        begin = waiting_jobs.start if session is None else waiting_jobs.all_at_once

        def first(connection: Connection) -> waiting_jobs.Changing:
            job, batch = lookup.job_or_batch(connection, job_id, batch_id, application, key)
            return begin(connection, change, author, job_id=job, batch_id=batch, now=now)

        done = self._ledger.write(session, first)
        while done.after is not None:
            done = self._ledger.write(None, partial(waiting_jobs.go_on, change=change, so_far=done, now=now))
        return done.number

    def _store_sends(self, sends: Sequence[Send], *, indexed: bool, session: Any) -> list[Job]:
        now = self._now()
        links = self._links_for(session) if any(wants_links(send) for send in sends) else None
        settings: dict[str, Any] = {"metadata_key": self._metadata_key, "senders": self._senders, "links": links}
        plan = partial(plan_sends, sends, indexed=indexed, now=now, **settings)
        planned = plan()
        if not sends:
            return []
        own = self._own_list.hits(sends)
        return self._ledger.write(
            session,
            lambda connection: self._enqueuer.store(
                connection, sends, planned, lambda verdict: plan(instead=verdict.instead), own=own, indexed=indexed,
                now=now, cap=self._lane_cap, vault=self._vault,
            ),
        )  # fmt: skip

    def _links_for(self, session: Any) -> Links:
        """Makes unsubscribe links. Only a committed key is kept: one that is rolled back would make links to nowhere.

        On SQLite another transaction than the caller's would wait for it, and it for that.
        """
        if self._links is None:
            in_callers = session is not None and self._ledger.engine.dialect.name == "sqlite"
            made = partial(digest_key, vault=self._vault)
            key = self._ledger.write(session if in_callers else None, made)
            if in_callers:
                return Links(key, self._unsubscribe_url)
            self._links = Links(key, self._unsubscribe_url)
        return self._links

    def _reading(
        self, sends: Iterable[Send], batch_id: UUID, links: Links, now: clock.Micros
    ) -> Callable[[str, Mapping[str, str] | None], Sends]:
        """Reads the messages of a batch, once its application and tags are known."""
        most = MOST_SENDS_SQLITE if self._ledger.engine.dialect.name == "sqlite" else None
        settings: dict[str, Any] = {"metadata_key": self._metadata_key, "senders": self._senders, "links": links}
        return lambda application, tags: Sends(
            sends, batch_id=batch_id, application=application, tags=tags, most=most, now=now, **settings
        )

    def _storing(self) -> Storing:
        def own(part: Sequence[Send]) -> list[Hit]:
            return self._own_list.hits(part)

        return Storing(self._enqueuer, own, self._lane_cap, self._vault)

    def _store_batch(self, call: BulkCall, session: Any) -> Batch:
        now = self._now()
        most = MOST_IDS_SQLITE if self._ledger.engine.dialect.name == "sqlite" else None
        planned, total = plan_batch(call, now=now, metadata_key=self._metadata_key, most_ids=most)
        return self._ledger.write(
            session,
            lambda connection: store_batch(connection, planned, total, now=now, cap=self._lane_cap, vault=self._vault),
        )
