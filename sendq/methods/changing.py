"""The methods of `SendQueue` that cancel and change jobs and batches that wait.

Generated from ``sendq/methods/async_changing.py`` by ``./dev generate``: change that file, not this one.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from sendq import changes, clock
from sendq.enqueueing.expiry import Expiry
from sendq.ids import parse_id
from sendq.ledger import waiting_jobs
from sendq.ledger.batches import cancel_batch, cancel_batch_by, end_some
from sendq.ledger.cancel import cancel, cancel_by
from sendq.ledger.db.transactions import Transactions
from sendq.ledger.reading import lookup
from sendq.rules.states import State
from sendq.rules.waiting_job import Change, ChangeKind
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import Priority


class Changing:
    """See the module."""

    _ledger: Transactions
    _now: clock.Clock

    def cancel(self, job_id: str, *, by: str | None = None, reason: str | None = None, session: Any = None) -> State:
        """Cancel a job that has not been carried out yet. Returns the state it is in afterwards.

        ``cancelled``: it will not be carried out. ``sending``: a request is in progress, and the job is cancelled only
        if that request turns out not to have been carried out. ``in_doubt``: an earlier request may have been carried
        out; none will follow. Any other state: the job had already ended.

        ``by`` and ``reason`` (author and reason) are recorded with it; without both, nothing is recorded.

        Raises `NotFound`, and `InvalidArgument` for ``by`` and ``reason``.
        """
        wanted = parse_id(job_id, what="job")
        if by is None and reason is None:
            return self._ledger.write(session, lambda connection: cancel(connection, wanted, now=self._now()))
        author = changes.author_of(by, reason)
        return self._ledger.write(
            session,
            lambda connection: cancel_by(connection, wanted, by=author.by, reason=author.reason, now=self._now()),
        )

    def cancel_batch(
        self,
        batch_id: str | None = None,
        *,
        key: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> None:
        """Cancel a batch: once this is committed, none of its waiting jobs starts.

        This ends the waiting jobs a few hundred at a time before it returns. With ``session`` it records the request
        only, and workers end them. A request in progress is handled as in `cancel`, and so are ``by`` and ``reason``.
        Does nothing if the batch has ended. ``grants`` as in `reschedule`.

        Raises `NotFound`, and `InvalidArgument` for ``by`` and ``reason``.
        """
        author = None if by is None and reason is None else changes.author_of(by, reason)

        def request(connection: Connection) -> UUID:
            found = lookup.batch_id(connection, batch_id, application, key)
            if author is None:
                cancel_batch(connection, found, now=self._now(), grants=grants)
            else:
                cancel_batch_by(connection, found, by=author.by, reason=author.reason, now=self._now(), grants=grants)
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
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> int:
        """Change when a job that waits, or the waiting jobs of a batch, may begin. Returns how many were changed.

        This replaces the wait before a retry, too; a hold remains. To change several things at once, pass ``session``.

        Args:
            job_id, key, batch_id: give one; a key names a job or a batch.
            due_at: no earlier than this (aware). None: at once.
            expires_at: the new expiry, or `NEVER`. None: the expiry stays, and ``due_at`` must be before it.
            by, reason: author and reason, recorded with the change; by default ``program`` and none.
            grants: for programs that decide who may see what: patterns of the only grants (``team-*``) that the job or
                batch may have; with any other there is no such job or batch. Jobs of other grants that are added to a
                batch while this goes on are left as they are.
            session: join this transaction. Without it, each few hundred jobs of a batch are changed in one.

        Raises:
            NotWaiting: its call is being made, its outcome is unknown, or it has ended. Such jobs of a batch are left
                as they are.
            InvalidArgument: an argument is invalid, or it would expire before it is due.
            NotFound: there is no such job, batch or key.
        """
        change = changes.reschedule_of(due_at, expires_at, now=self._now())
        return self._change(change, job_id, key, batch_id, application, by, reason, grants, session)

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
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> int:
        """Change the priority of a job that waits, or of the waiting jobs of a batch; the rest as in `reschedule`."""
        change = changes.priority_of(priority)
        return self._change(change, job_id, key, batch_id, application, by, reason, grants, session)

    def hold(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> int:
        """Keep a job that waits, or the waiting jobs of a batch, from beginning until `release`; the rest as in
        `reschedule`.

        A job that is held still expires. Later changes of the same message wait for it. Jobs of a held batch that are
        found by its search, added, or return to the queue afterwards (for a retry, say) are held too. A later `release`
        ends a hold of a batch that still goes on.
        """
        return self._change(changes.HOLD, job_id, key, batch_id, application, by, reason, grants, session)

    def release(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        by: str | None = None,
        reason: str | None = None,
        grants: Collection[str] | None = None,
        session: Any = None,
    ) -> int:
        """End a `hold` of a job or batch: it may begin at its due time, or when its retry is due."""
        return self._change(changes.RELEASE, job_id, key, batch_id, application, by, reason, grants, session)

    def approve(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        content: int | None = None,
        by: str,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """Approve a job that waits for approval, or those of a batch: they may begin when they are due. Returns how
        many were approved.

        A batch is approved or rejected once nothing more can join it: it is closed, and its messages are found. A hold
        remains.

        Args:
            job_id, key, batch_id: give one; a key names a job or a batch.
            content: of one job: the content version (`JobView.content_version`) that was read; if its message has been
                replaced since, nothing is changed. None: whatever its content is now. Jobs of a batch whose message is
                replaced while this goes on are left alone.
            by, reason: who approves it, and why; recorded with the approval.
            session: join this transaction. Without it, each few hundred jobs of a batch are changed in one.

        Raises:
            NotWaiting: it needs no approval or is approved already, has another content version, was not approved in
                time, was cancelled, is being sent, or has ended; a batch also if it is not complete. The error has its
                state.
            InvalidArgument: an argument is invalid.
            NotFound: there is no such job, batch or key.
        """
        decision = changes.decision_of(ChangeKind.APPROVE, content)
        return self._change(decision, job_id, key, batch_id, application, by, reason, None, session)

    def reject(
        self,
        job_id: str | None = None,
        *,
        key: str | None = None,
        batch_id: str | None = None,
        application: str = DEFAULT_APPLICATION,
        content: int | None = None,
        by: str,
        reason: str | None = None,
        session: Any = None,
    ) -> int:
        """End a job that waits for approval, or those of a batch: they are cancelled, rule ``rejected``; the rest as in
        `approve`.
        """
        decision = changes.decision_of(ChangeKind.REJECT, content)
        return self._change(decision, job_id, key, batch_id, application, by, reason, None, session)

    def _change(
        self,
        change: Change,
        job_id: str | None,
        key: str | None,
        batch_id: str | None,
        application: str,
        by: str | None,
        reason: str | None,
        grants: Collection[str] | None,
        session: Any,
    ) -> int:
        author = changes.author_of(by, reason)
        begin = waiting_jobs.start if session is None else waiting_jobs.all_at_once

        def first(connection: Connection) -> waiting_jobs.Changing:
            job, batch = lookup.job_or_batch(connection, job_id, batch_id, application, key)
            return begin(connection, change, author, job_id=job, batch_id=batch, now=self._now(), grants=grants)

        done = self._ledger.write(session, first)
        while done.after is not None:
            part = partial(waiting_jobs.go_on, change=change, so_far=done, now=self._now())
            done = self._ledger.write(None, part)
        return done.number
