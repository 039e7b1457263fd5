"""The methods of `AsyncSendQueue` that read: jobs, batches and grants."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from sendq import clock
from sendq.filter_checks import job_filter, limit_of, members_of, name_of
from sendq.ids import parse_id, valid_id
from sendq.ledger import admission
from sendq.ledger.db.async_transactions import AsyncTransactions
from sendq.ledger.reading import batch as batch_reading
from sendq.ledger.reading import grants, lookup, owner
from sendq.ledger.reading import jobs as jobs_reading
from sendq.ledger.reading import why as why_reading
from sendq.ledger.reading.filters import GrantFilter
from sendq.rules.states import State
from sendq.rules.windows import Window
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import BatchView, Eta, GrantView, JobCounts, JobLine, JobView, Page, Priority, Why
from sendq.views.owner import Owner


class AsyncReading:
    """See the module."""

    _ledger: AsyncTransactions
    _now: clock.Clock

    async def job(
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

        return await self._ledger.read(query, session)

    async def jobs(
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
        grants: Collection[str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        session: Any = None,
    ) -> Page[JobLine]:
        """Jobs of a grant, of a batch, with a tag (``campaign=may``), in some states, or of a key, page by page.

        The most recently enqueued comes first.

        Pass a page's ``next`` as ``cursor`` for the following one. ``since`` and ``until``: when they were enqueued.
        Without ``grant_id``, a job that was enqueued a moment ago is not found until the dispatcher has seen it.
        ``grants``: for programs that decide who may see what, patterns of the only grants (``team-*``) whose jobs are
        found. Raises `InvalidArgument`, and `NotFound` for an unknown key; with ``grants``, also for a job or batch of
        other grants.
        """
        scope = None if grant_id is None and (batch_id is not None or key is not None) else application
        filters = job_filter(scope, None, grant_id, None, batch_id, since, until, tag)
        which = jobs_reading.JobQuery(filters, states=members_of("state", state, State))
        size, named = limit_of(limit), name_of("key", key)

        def query(connection: Connection) -> Page[JobLine]:
            wanted = which if named is None else jobs_reading.of_key(connection, which, application, named)
            if grants is not None:
                wanted = jobs_reading.of_grants(connection, wanted, GrantFilter.of(application, grants))
            return jobs_reading.jobs(connection, wanted, after=cursor, limit=size)

        return await self._ledger.read(query, session)

    async def count(
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
        return await self._ledger.read(lambda connection: jobs_reading.count(connection, which), session)

    async def why(
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

        return await self._ledger.read(query, session)

    async def grant(self, grant_id: str, *, application: str = DEFAULT_APPLICATION, session: Any = None) -> GrantView:
        """Whether a grant is connected, what holds it and until when, and how many of its jobs wait.

        Of a grant that has had no job yet, ``known`` is False. Nylas is not asked: a grant that needs its owner to sign
        in again is known to do so once a call or a webhook has said it.
        """
        return await self._ledger.read(
            lambda connection: grants.grant(connection, application, grant_id, now=self._now()), session
        )

    async def eta(
        self,
        grant_id: str,
        *,
        operation: str = "send",
        due_at: datetime | None = None,
        priority: Priority = Priority.NORMAL,
        window: Window | None = None,
        application: str = DEFAULT_APPLICATION,
        session: Any = None,
    ) -> Eta:
        """When a job enqueued now would be carried out: an estimate from the grant's pace, holds, window and queue.

        ``operation``: ``send`` or ``modify``; ``window``: the job's own.
        """
        now = self._now()
        not_before = now if due_at is None else clock.micros(due_at)

        def query(connection: Connection) -> Eta:
            return admission.eta(
                connection, application, grant_id, operation, priority=priority, not_before=not_before, now=now,
                window=None if window is None else str(window),
            )  # fmt: skip

        return await self._ledger.read(query, session)

    async def batch(
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

        return await self._ledger.read(query, session)

    async def owners(self, job_ids: Iterable[str], *, session: Any = None) -> dict[str, Owner]:
        """The owners of many jobs, by the ids as they were given; those of no job are left out. See `owner`."""
        wanted = {given: found for given in set(job_ids) if (found := valid_id(given)) is not None}

        def query(connection: Connection) -> dict[str, Owner]:
            found = owner.of_jobs(connection, set(wanted.values()))
            return {given: found[job_id] for given, job_id in wanted.items() if job_id in found}

        return await self._ledger.read(query, session)

    async def owner(self, job_id: str | None = None, *, batch_id: str | None = None, session: Any = None) -> Owner:
        """The application and the grants of a job or batch, for programs that decide who may see it.

        Unlike those of `JobView`, they are known at once. Raises `NotFound`.
        """
        if (job_id is None) == (batch_id is None):
            raise TypeError("name either a job or a batch by its id")

        def query(connection: Connection) -> Owner:
            if job_id is not None:
                return owner.of_job(connection, parse_id(job_id, what="job"))
            return owner.of_batch(connection, parse_id(batch_id or "", what="batch"))

        return await self._ledger.read(query, session)
