"""Why a job waits: everything that decides it is read here, in one transaction; `sendq.rules.why` gives the reason."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, Select, and_, func, or_, select, tuple_

from sendq.clock import Micros
from sendq.facts.lanes import Lane
from sendq.ledger.db import schema
from sendq.ledger.dispatching import broker
from sendq.ledger.reading.budgets import room, used_up
from sendq.ledger.reading.delivery import delivery_of
from sendq.ledger.reading.holds import StoredHold, holds_of_tags, holds_over
from sendq.ledger.reading.lookup import no_such_job
from sendq.ledger.reading.rows import as_one, columns_of, lane_of
from sendq.rules.preflight import OWN_BODY
from sendq.rules.rule_ids import AFTER, AFTER_FAILED, BOUNCE_RATE, BY_HAND, OVER_BUDGET, UNLESS_BOUNCED, UNLESS_REPLIED
from sendq.rules.situation import EarlierChange, Follows, HeldBy, HoldFacts, JobFacts, Situation
from sendq.rules.states import State
from sendq.rules.tags import each_tag
from sendq.rules.why import explain
from sendq.views import Why

# Counting the jobs ahead stops here: "more than ten thousand" is precise enough, and the count stays cheap.
AHEAD_MOST = 10_000

# The rules of jobs that wait for another, or ended because of it.
_OF_FOLLOWERS = frozenset({AFTER, AFTER_FAILED, UNLESS_REPLIED, UNLESS_BOUNCED})


def why(connection: Connection, job_id: UUID, *, now: Micros) -> Why:
    """Why a job is in its state, and until when. Raises `NotFound`."""
    return explain(situation(connection, job_id, now=now), now=now)


def situation(connection: Connection, job_id: UUID, *, now: Micros) -> Situation:
    """The input of `sendq.rules.why`. Raises `NotFound`."""
    table = schema.job
    found = connection.execute(
        select(*columns_of(JobFacts, table), table.c.lane_id, table.c.batch_id, table.c.object_id,
               table.c.priority, table.c.generation, table.c.tags).where(table.c.id == job_id)
    ).first()  # fmt: skip
    if found is None:
        raise no_such_job(job_id)
    job = as_one(JobFacts, found)
    queued = job.state == State.QUEUED
    same = (table.c.lane_id == found.lane_id,)
    ahead = select(table.c.id).where(
        *same,
        table.c.state == State.QUEUED.value,
        table.c.resume_at.is_(None),
        tuple_(table.c.priority, table.c.next_at, table.c.id) < (found.priority, job.next_at, job.id),
    )
    before = select(*columns_of(EarlierChange, table)).where(
        *same,
        table.c.object_id == found.object_id,
        table.c.state.in_([State.QUEUED.value, State.SENDING.value]),
        tuple_(table.c.due_at, table.c.id) < (found.due_at, job.id),
    )
    leader = schema.leader.c
    leads = connection.execute(select(leader.expires_at, leader.shut_at, leader.shut_because, leader.highest_at)).one()
    trouble = broker.read(connection)
    lane = lane_of(connection, found.lane_id)
    delivery = delivery_of(connection, found)
    alive = select(func.count()).select_from(schema.worker).where(~schema.worker.c.stopping)
    return Situation(
        job=job,
        lane=lane,
        holds=tuple(_hold(connection, hold) for hold in holds_over(connection, found.lane_id)),
        ahead=_count(connection, ahead) if queued else 0,
        workers=int(connection.execute(alive).scalar_one()),
        dispatcher_until=leads.expires_at,
        sealed_with=_sealed_with(connection, job, found.batch_id),
        shut_at=leads.shut_at,
        shut_because=leads.shut_because,
        highest_at=leads.highest_at,
        before=_last(connection, before) if queued and found.object_id is not None else None,
        unpublished_since=trouble.unpublished_since,
        unclaimed_since=trouble.unclaimed_since,
        failing_since=trouble.failing_since,
        delivery=None if delivery is None else delivery.delivery,
        tag_holds=tuple(_hold(connection, hold) for hold in holds_of_tags(connection, found.lane_id, found.tags)),
        held=_held_by(connection, lane, job.id, found.batch_id) if job.is_held else None,
        follows=_follows(connection, job) if job.rule in _OF_FOLLOWERS else None,
        used_up=used_up(connection, lane.application, found.tags)
        if lane is not None and job.rule == OVER_BUDGET
        else (),
        room=room(connection, lane.application, each_tag(found.tags), now=now)
        if lane is not None and queued and job.operation == "send"
        else None,
    )


def _follows(connection: Connection, job: JobFacts) -> Follows | None:
    after, other = schema.after.c, schema.job.c
    row = connection.execute(
        select(after.after_id, other.state, other.rule.label("failed_by"), after.delay, after.unless, after.check_at,
               after.trouble)
        .outerjoin(schema.job, other.id == after.after_id)
        .where(after.job_id == job.id)
    ).first()  # fmt: skip
    return None if row is None else as_one(Follows, row)


def _held_by(connection: Connection, lane: Lane | None, job_id: UUID, batch_id: UUID | None) -> HeldBy | None:
    """Who holds a job, or its batch: the event of the last hold of either."""
    table, batch = schema.event.c, schema.batch.c
    hold = select(table.at, table.by, table.reason).where(table.kind == "hold", table.rule == BY_HAND)
    found = []
    if batch_id is not None:  # the event has the time at which the hold began
        of_batch = hold.join(schema.batch, batch.id == table.batch_id).where(
            batch.id == batch_id, table.at == batch.held_at, table.job_id.is_(None)
        )
        found += [(row.at, HeldBy(row.by, row.reason, batch_id)) for row in connection.execute(of_batch)]
    # By the grant, for which there is an index.
    of_grant = table.grant_id.is_not(None) if lane is None else table.grant_id == lane.grant_id
    of_job = hold.where(of_grant, table.job_id == job_id).order_by(table.at.desc()).limit(1)
    found += [(row.at, HeldBy(row.by, row.reason, None)) for row in connection.execute(of_job)]
    return max(found, key=lambda one: one[0])[1] if found else None


def _hold(connection: Connection, hold: StoredHold) -> HoldFacts:
    note = _note(connection, hold) if hold.held_rule in (BY_HAND, BOUNCE_RATE) else None
    scope = hold.scope if hold.tag is None else f"tag {hold.tag}"
    return HoldFacts(scope, hold.held_until, hold.held_rule, hold.held_by, note)


def _note(connection: Connection, hold: StoredHold) -> str | None:
    """The reason in a hold's event: it has the time at which the hold began."""
    table = schema.event.c
    on = table.grant_id == hold.grant_id if hold.tag is None else table.tag == hold.tag
    if hold.grant_id is None and hold.tag is None:
        provider = table.provider.is_(None) if hold.provider is None else table.provider == hold.provider
        on = and_(table.grant_id.is_(None), table.tag.is_(None), provider)
    reason: str | None = connection.execute(
        select(table.reason)
        .where(table.at == hold.held_since, table.kind == "hold", table.application == hold.application, on)
        .where(or_(table.rule != BY_HAND, and_(table.job_id.is_(None), table.batch_id.is_(None))))
        .limit(1)
    ).scalar()
    return reason


def _sealed_with(connection: Connection, job: JobFacts, batch_id: UUID | None) -> str | None:
    own = batch_id is None or job.operation in OWN_BODY
    body, of = (schema.payload, job.id) if own else (schema.batch, batch_id)
    (identity,) = body.primary_key.columns
    name: str | None = connection.execute(select(body.c.cipher_key).where(identity == of)).scalar()
    return name


def _last(connection: Connection, earlier: Select[tuple[object, ...]]) -> EarlierChange | None:
    table = schema.job.c
    # "sending" goes before "queued"
    row = connection.execute(earlier.order_by(table.state.desc(), table.next_at.desc()).limit(1)).first()
    return None if row is None else as_one(EarlierChange, row)


def _count(connection: Connection, jobs: Select[tuple[object, ...]]) -> int:
    return int(connection.execute(select(func.count()).select_from(jobs.limit(AHEAD_MOST).subquery())).scalar_one())
