"""Queries of operators: lists page by page, one grant, job or batch, why a job waits, and the status of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from sendq.filter_checks import (
    choices_of,
    id_of,
    job_filter,
    limit_of,
    members_of,
    name_of,
    period_of,
    refuse,
    scope_of,
)
from sendq.ledger import deliveries as ledger_deliveries
from sendq.ledger import events as ledger_events
from sendq.ledger import outcomes
from sendq.ledger.reading import (
    batch,
    dead_letters,
    deliveries,
    doubts,
    events,
    grants,
    held,
    jobs,
    lookup,
    status,
    why,
)
from sendq.ledger.reading.filters import ALWAYS, JobFilter, Period
from sendq.operators.base import LedgerAccess
from sendq.rules.delivery import Delivery
from sendq.rules.states import State
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import (
    BatchView,
    DeadLetter,
    DeadLetterCount,
    DeliveryView,
    Doubt,
    EventView,
    GrantState,
    GrantView,
    HeldGroup,
    JobCounts,
    JobLine,
    JobView,
    Page,
    Priority,
    Status,
    Why,
)

T = TypeVar("T")

# Items of a page unless the caller says otherwise.
PAGE = 100

OPERATIONS = ("send", "modify", "delete", "list", "read", "restore")


class Reading(LedgerAccess):
    """Queries of the ledger. Nothing is changed, and no query locks a row.

    Lists are returned as a `Page`, the latest first; its ``next`` is the ``cursor`` for the same call's next page.
    The filters have the same meaning in all lists; an item must match every given filter:

        application, provider    of the item's grant
        grant_id                 without ``application``, a grant of the application ``default``
        state                    one state or several
        rule                     what decided last
        batch_id                 the batch it belongs to
        tag                      one of its tags, like ``campaign=may``
        since, until             datetimes with a time zone: not before, and before
        limit                    items of a page, at most 10,000

    A job that was enqueued a moment ago is found by its grant, but not by application or provider alone until the
    dispatcher has seen it. An invalid value raises `InvalidArgument`, with the field, the reason and the remedy.
    """

    def status(self, *, holds: int = 20) -> Status:
        """The ledger at a glance; with at most ``holds`` grants that are held or closed, the latest first."""
        return self._read(lambda connection: status.status(connection, now=self._now(), holds=limit_of(holds)))

    def grant(self, grant_id: str, *, application: str = DEFAULT_APPLICATION) -> GrantView:
        """Whether a grant is connected, what holds it and until when, and how many of its jobs are waiting.

        If the dispatcher has not seen the grant (``known`` is False), only its waiting jobs and its application's hold
        are known.
        """
        scope_of(application, None, grant_id)
        return self._read(lambda connection: grants.grant(connection, application, grant_id, now=self._now()))

    def held(
        self, *, application: str | None = None, provider: str | None = None, rule: str | None = None
    ) -> tuple[HeldGroup, ...]:
        """What is held or closed, grouped by rule and provider: grants, waiting jobs, first and last time back; the
        group with the most waiting jobs first. `Operators.release_grants` releases a group.
        """
        scope, named = scope_of(application, provider, None), name_of("rule", rule)
        return self._read(lambda connection: held.held(connection, scope=scope, rule=named, now=self._now()))

    def grants(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        state: GrantState | str | Iterable[GrantState | str] | None = None,
        rule: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[GrantView]:
        """Grants: those that are closed or held, the latest first, then the open ones. ``text``: a part of their ids.

        ``rule``, ``since`` and ``until``: by what and when it was held or closed. The hold of a whole provider or
        application does not make its grants ``held``; it is in the ``holds`` of each.
        """
        which = grants.GrantQuery(
            scope=scope_of(application, provider, grant_id),
            states=members_of("state", state, GrantState),
            rule=name_of("rule", rule),
            period=period_of(since, until),
            text=name_of("text", text),
        )
        limit = limit_of(limit)
        return self._read(
            lambda connection: grants.grants(connection, which, after=cursor, limit=limit, now=self._now())
        )

    def jobs(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        state: State | str | Iterable[State | str] | None = None,
        rule: str | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        operation: str | None = None,
        priority: Priority | str | None = None,
        delivery: Delivery | str | Iterable[Delivery | str] | None = None,
        key: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        due_since: datetime | None = None,
        due_until: datetime | None = None,
        expires_since: datetime | None = None,
        expires_until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[JobLine]:
        """Jobs, the most recently enqueued first. ``since`` and ``until``: when they were enqueued.

        ``delivery``: what was reported to have become of its mail. ``operation``: ``send``, ``modify``, ``delete``, or
        ``list`` (a page of a walk). ``key``: the job that was
        enqueued with it, or the jobs of the batch that was. ``due_since`` and ``due_until``: for when they were
        enqueued. ``expires_since`` and ``expires_until``: jobs that wait and would expire then, the next to expire
        first. Raises `NotFound` for an unknown key.
        """
        which = _job_query(
            job_filter(application, provider, grant_id, rule, batch_id, since, until, tag),
            due=period_of(due_since, due_until, "due_"),
            expires=period_of(expires_since, expires_until, "expires_"),
            state=state, operation=operation, priority=priority, delivery=delivery,
        )  # fmt: skip
        named = name_of("key", key)

        def page(connection: Connection, size: int) -> Page[JobLine]:
            wanted = which
            if named is not None:
                wanted = jobs.of_key(connection, which, application or DEFAULT_APPLICATION, named)
            return jobs.jobs(connection, wanted, after=cursor, limit=size)

        return self._page(page, limit)

    def count_jobs(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        state: State | str | Iterable[State | str] | None = None,
        rule: str | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        operation: str | None = None,
        priority: Priority | str | None = None,
        delivery: Delivery | str | Iterable[Delivery | str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> JobCounts:
        """The number of jobs in each state; the filters are those of `jobs`. Counts up to 100,000 jobs."""
        which = _job_query(
            job_filter(application, provider, grant_id, rule, batch_id, since, until, tag),
            state=state, operation=operation, priority=priority, delivery=delivery,
        )  # fmt: skip
        return self._read(lambda connection: jobs.count(connection, which))

    def dead_letters(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        rule: str | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[DeadLetter]:
        """Dead letters, the most recently given up first. ``since`` and ``until``: when they were given up."""
        which = job_filter(application, provider, grant_id, rule, batch_id, since, until, tag)
        return self._page(
            lambda connection, size: dead_letters.dead_letters(connection, which, after=cursor, limit=size), limit
        )

    def dead_letter_counts(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        rule: str | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        each: str | None = None,
    ) -> list[DeadLetterCount]:
        """The number of dead letters of each rule, the largest first; the filters are those of `dead_letters`.

        ``each``: ``provider`` or ``application``, to count them for each of these as well.
        """
        if each not in (None, "provider", "application"):
            refuse("each", "is neither provider nor application", "give one of them, or None")
        which = job_filter(application, provider, grant_id, rule, batch_id, since, until, tag)
        return self._read(lambda connection: dead_letters.counts_by_rule(connection, which, each=each))

    def doubts(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        rule: str | None = None,
        batch_id: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[Doubt]:
        """Jobs in doubt, the most recently enqueued first. ``since`` and ``until``: when they were enqueued."""
        which = job_filter(application, provider, grant_id, rule, batch_id, since, until, tag)
        return self._page(lambda connection, size: doubts.doubts(connection, which, after=cursor, limit=size), limit)

    def events(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        kind: str | Iterable[str] | None = None,
        rule: str | None = None,
        by: str | None = None,
        job_id: str | None = None,
        batch_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[EventView]:
        """What happened to grants and holds, and what operators did, the latest first.

        ``kind``: one or several of the kinds in `sendq.ledger.events`; ``by``: an operator's name, or an automatic
        actor such as ``policy``.
        """
        which = events.EventQuery(
            scope=scope_of(application, provider, grant_id),
            kinds=choices_of("kind", kind, ledger_events.KINDS),
            rule=name_of("rule", rule),
            by=name_of("by", by),
            job_id=id_of("job_id", job_id),
            batch_id=id_of("batch_id", batch_id),
            period=period_of(since, until),
        )
        return self._page(lambda connection, size: events.events(connection, which, after=cursor, limit=size), limit)

    def deliveries(
        self,
        *,
        application: str | None = None,
        provider: str | None = None,
        grant_id: str | None = None,
        state: str | Iterable[str] | None = None,
        kind: str | Iterable[str] | None = None,
        receiver: str | None = None,
        job_id: str | None = None,
        batch_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Page[DeliveryView]:
        """Deliveries of outcomes, the latest first. ``since`` and ``until``: when the outcome occurred.

        ``state``: ``waiting``, ``delivered``, ``given_up``. ``kind``: the outcome (``sent``, ``dead``, …). ``job_id``
        or ``batch_id``: what it is about.
        """
        if job_id is not None and batch_id is not None:
            refuse("batch_id", "is given beside job_id", "give one of the two: a delivery is about one thing")
        which = deliveries.DeliveryQuery(
            scope=scope_of(application, provider, grant_id),
            states=choices_of("state", state, ledger_deliveries.STATES),
            kinds=choices_of("kind", kind, outcomes.KINDS),
            receiver=name_of("receiver", receiver),
            subject=id_of("job_id", job_id) if job_id is not None else id_of("batch_id", batch_id),
            period=period_of(since, until),
        )
        return self._page(
            lambda connection, size: deliveries.deliveries(connection, which, after=cursor, limit=size), limit
        )

    def job(
        self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> JobView:
        """A job with its attempts, by its id or by the key it was enqueued with. Raises `NotFound`."""
        return self._read(
            lambda connection: lookup.job(connection, lookup.job_id(connection, job_id, application, key))
        )

    def why(self, job_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION) -> Why:
        """Why a job is in its state: what it waits for and until when, or why it ended. Raises `NotFound`."""

        def ask(connection: Connection) -> Why:
            return why.why(connection, lookup.job_id(connection, job_id, application, key), now=self._now())

        return self._read(ask)

    def batch(
        self, batch_id: str | None = None, *, key: str | None = None, application: str = DEFAULT_APPLICATION
    ) -> BatchView:
        """A batch with its progress, by its id or by the key it was enqueued with. Raises `NotFound`."""

        def ask(connection: Connection) -> BatchView:
            found = lookup.batch_id(connection, batch_id, application, key)
            return batch.batch(connection, found, now=self._now())

        return self._read(ask)

    def _page(self, question: Callable[[Connection, int], Page[T]], limit: int) -> Page[T]:
        size = limit_of(limit)
        return self._read(lambda connection: question(connection, size))


def _job_query(
    which: JobFilter,
    *,
    due: Period = ALWAYS,
    expires: Period = ALWAYS,
    state: State | str | Iterable[State | str] | None,
    operation: str | None,
    priority: Priority | str | None,
    delivery: Delivery | str | Iterable[Delivery | str] | None,
) -> jobs.JobQuery:
    operations = choices_of("operation", operation, OPERATIONS)
    return jobs.JobQuery(
        which,
        due=due,
        expires=expires,
        states=members_of("state", state, State),
        operation=operations[0] if operations else None,
        priority=_priority(priority),
        deliveries=members_of("delivery", delivery, Delivery),
    )


def _priority(given: Priority | str | None) -> Priority | None:
    if given is None or isinstance(given, Priority):
        return given
    (name,) = choices_of("priority", given, [priority.name.lower() for priority in Priority])
    return Priority[name.upper()]
