"""Filtered lists of jobs, the latest first.

Ids of jobs sort by the time of their enqueue, so the primary key serves both the order and the period. Jobs in the rare
states are found through the partial indexes of these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, func, select

from sendq.errors import NotFound
from sendq.ledger.db import schema
from sendq.ledger.reading import owner, unapproved
from sendq.ledger.reading.filters import ALWAYS, EVERY_JOB, GrantFilter, JobFilter, Period
from sendq.ledger.reading.lookup import find_key
from sendq.ledger.reading.paging import cursor, in_states, literal, place, walk
from sendq.ledger.reading.rows import as_one, columns_of, next_start
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import NEEDS_APPROVAL
from sendq.rules.states import State
from sendq.scope import COUNT_MOST
from sendq.views import JobCounts, JobLine, Page, Priority

# States with their own partial index: few jobs are in them at any time.
RARE = frozenset({State.SENDING, State.IN_DOUBT, State.DEAD})

# What becomes of nearly every mail, so that many jobs have it.
WENT_WELL = frozenset({Delivery.CONFIRMED, Delivery.DELIVERED})


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs: those that match every given field. ``jobs.period``: when they were enqueued.

    ``due``: for when they were enqueued (see `JobView.due_at`). ``expires``: when they expire; only waiting ones do.
    ``deliveries``: what became of their mail. ``grants``: those that the caller may see (see `of_grants`).
    """

    jobs: JobFilter = EVERY_JOB
    grants: GrantFilter | None = None
    job_id: UUID | None = None
    due: Period = ALWAYS
    expires: Period = ALWAYS
    states: Collection[State] = ()
    operation: str | None = None
    priority: Priority | None = None
    deliveries: Collection[Delivery] = ()

    def conditions(self) -> list[ColumnElement[bool]]:
        """All but the period, the batch and the tag."""
        job = schema.job.c
        conditions = [*self.jobs.conditions(without=["batch_id", "tag"]), *self.due.of_times(job.due_at)]
        if self.grants is not None:
            conditions.append(self.grants.condition())
        for column, value in (
            (job.operation, self.operation),
            (job.priority, None if self.priority is None else self.priority.value),
        ):
            if value is not None:
                conditions.append(column == value)
        if self.jobs.rule == NEEDS_APPROVAL:  # all of them are in a partial index
            conditions.append(job.id.in_(select(job.id).where(*unapproved.waiting()).correlate(None)))
        if self.deliveries:
            status, named = schema.delivery_status.c, [delivery.value for delivery in sorted(self.deliveries)]
            this = (status.job_id == job.id, status.generation == job.generation, status.delivery.in_(named))
            conditions.append(exists().where(*this))
        return conditions


def of_key(connection: Connection, which: JobQuery, application: str, key: str) -> JobQuery:
    """``which``, of the job that was enqueued with a key, or of the jobs of the batch that was.

    Raises `NotFound`, also for the key of a batch other than the one that ``which`` names.
    """
    found = find_key(connection, application, key)
    named = which.jobs.batch_id
    if found.batch_id is not None and named not in (None, found.batch_id):
        raise NotFound(f"this key names another batch than {named}")
    return replace(which, jobs=replace(which.jobs, batch_id=found.batch_id or named), job_id=found.job_id)


def of_grants(connection: Connection, which: JobQuery, seen: GrantFilter) -> JobQuery:
    """``which``, of the grants that the caller may see.

    A job or batch that ``which`` names must be covered with all of its grants, which then are known, also before the
    dispatcher has seen the jobs. Raises `NotFound`.
    """
    shown = seen
    grant_id = which.jobs.scope.grant
    if grant_id is not None and seen.covers(grant_id):
        shown = replace(seen, grant_ids=[grant_id], patterns=())
    for named, owner_of in ((which.jobs.batch_id, owner.of_batch), (which.job_id, owner.of_job)):
        if named is None:
            continue
        its = owner_of(connection, named)
        if its.application != seen.application or not its.grant_ids or not all(map(seen.covers, its.grant_ids)):
            raise NotFound("none of the grants that may be seen has such jobs")
        shown = replace(seen, grant_ids=its.grant_ids, patterns=())
    return replace(which, grants=shown)


def jobs(connection: Connection, which: JobQuery, *, after: str | None = None, limit: int) -> Page[JobLine]:
    """Jobs, the most recently enqueued first, or, if they are filtered by their expiry, those that expire first.

    Raises `InvalidArgument` for an invalid cursor.
    """
    job, lane = schema.job, schema.lane
    query = select(*columns_of(JobLine, job), lane.c.application, lane.c.grant_id).outerjoin(
        lane, lane.c.id == job.c.lane_id
    )
    identity, tag = job.c.id, schema.job_tag.c
    filters = which.conditions()
    of_tag = []
    if which.jobs.tag is not None:  # along its own index, whose order is the same
        identity = tag.job_id
        query = query.join(schema.job_tag, identity == job.c.id).add_columns(identity)
        of_tag.append(tag.tag == which.jobs.tag)
    within = [*of_tag, *which.jobs.period.of_ids(identity)]
    if which.job_id is not None:
        within.append(identity == which.job_id)
    if which.expires != ALWAYS:
        return _by_expiry(connection, query, which, [*within, *filters], after=after, limit=limit)
    if which.jobs.batch_id is not None:
        (within if which.jobs.tag is None else filters).append(job.c.batch_id == which.jobs.batch_id)
    if which.deliveries and not WENT_WELL & set(which.deliveries):
        # Few jobs: read from the table of what was reported, not along all jobs.
        status, named = schema.delivery_status.c, [delivery.value for delivery in sorted(which.deliveries)]
        few = select(status.job_id).where(status.delivery.in_(named))
        query = query.where(job.c.id.in_(few), *filters, *_of_states(which))
        filters = []
    elif which.states:
        if set(which.states) <= RARE and which.jobs.batch_id is None:
            rule = [] if which.jobs.rule is None else [job.c.rule == which.jobs.rule]
            query = query.where(in_states(which.states, *rule), *filters)
            filters = []
        else:
            filters.append(job.c.state.in_(sorted(which.states)))
    rows, last = walk(
        connection, query, [identity], within=within, filters=filters, after=place("jobs", after, UUID), limit=limit
    )
    return Page(_lines(rows), cursor("jobs", last))


def _lines(rows: Sequence[Row[Any]]) -> tuple[JobLine, ...]:
    return tuple(as_one(JobLine, row, next_at=next_start(row.next_at)) for row in rows)


def count(connection: Connection, which: JobQuery) -> JobCounts:
    """Jobs by their state; counts up to `COUNT_MOST`, so that its cost is bounded."""
    job, lane, tag = schema.job, schema.lane, schema.job_tag
    some = select(job.c.state).outerjoin(lane, lane.c.id == job.c.lane_id)
    if which.jobs.tag is not None:
        some = some.join(tag, tag.c.job_id == job.c.id).where(tag.c.tag == which.jobs.tag)
    if which.jobs.batch_id is not None:
        some = some.where(job.c.batch_id == which.jobs.batch_id)
    if which.states:
        some = some.where(in_states(which.states) if set(which.states) <= RARE else and_(*_of_states(which)))
    some = some.where(*which.jobs.period.of_ids(job.c.id), *which.conditions()).limit(COUNT_MOST)
    found = some.subquery()
    rows = connection.execute(select(found.c.state, func.count().label("number")).group_by(found.c.state))
    states = {State(row.state): int(row.number) for row in rows}
    return JobCounts(states, more=sum(states.values()) == COUNT_MOST)


def _of_states(which: JobQuery) -> list[ColumnElement[bool]]:
    return [schema.job.c.state.in_(sorted(which.states))] if which.states else []


def _by_expiry(
    connection: Connection,
    query: Select[Any],
    which: JobQuery,
    filters: Sequence[ColumnElement[bool]],
    *,
    after: str | None,
    limit: int,
) -> Page[JobLine]:
    job = schema.job.c
    filters = [*filters, *_of_states(which)]
    within = [job.state == literal(State.QUEUED), job.expires_at.is_not(None), *which.expires.of_times(job.expires_at)]
    if which.jobs.batch_id is not None:
        filters = [*filters, job.batch_id == which.jobs.batch_id]
    rows, last = walk(
        connection, query, [job.expires_at, job.id],
        within=within, filters=filters, after=place("jobs_by_expiry", after, int, UUID), limit=limit, upwards=True,
    )  # fmt: skip
    return Page(_lines(rows), cursor("jobs_by_expiry", last))
