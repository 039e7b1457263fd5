"""Queries about one job: its trail, and what decides when it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select, text, tuple_

from sendq.clock import Micros, moment
from sendq.errors import NotFound, Pruned
from sendq.ledger.db import schema
from sendq.ledger.events import BY_HAND
from sendq.rules.states import State
from sendq.views import AttemptView, JobView, Priority

# Counting those ahead stops here: "more than ten thousand" is answer enough, and the count stays cheap.
AHEAD_MOST = 10_000


def parse_id(value: str | UUID, *, what: str) -> UUID:
    """An id as given by a caller; one that is no id at all is one that does not exist."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise NotFound(f"there is no {what} {value!r}: ids look like 0192f0c1-2f3e-7c4d-9a5b-0123456789ab") from None


def find_key(connection: Connection, application: str, key: str) -> Row[Any]:
    """What a key names: ``job_id`` or ``batch_id``."""
    table = schema.key
    found = connection.execute(select(table).where(table.c.application == application, table.c.key == key)).first()
    if found is None:
        raise NotFound(f"no job or batch of application {application!r} was enqueued with this key")
    return found


def job_id(connection: Connection, given: str | UUID | None, application: str, key: str | None) -> UUID:
    """The id of a job that a caller names by its id or its key."""
    return _named(connection, given, application, key, what="job")


def batch_id(connection: Connection, given: str | UUID | None, application: str, key: str | None) -> UUID:
    """The id of a batch that a caller names by its id or its key."""
    return _named(connection, given, application, key, what="batch")


def _named(connection: Connection, given: str | UUID | None, application: str, key: str | None, *, what: str) -> UUID:
    if (given is None) == (key is None):
        raise TypeError(f"name the {what} either by its id or by its key")
    if given is not None:
        return parse_id(given, what=what)
    assert key is not None
    row = find_key(connection, application, key)
    found: UUID | None = row.job_id if what == "job" else row.batch_id
    if found is None:
        other = "batch" if what == "job" else "job"
        raise NotFound(f"this key names a {other}, not a {what}; ask with {other}(key=…)")
    table = schema.job if what == "job" else schema.batch
    if connection.execute(select(table.c.id).where(table.c.id == found)).first() is None:
        raise Pruned(what, str(found), f"{moment(row.created_at):%Y-%m-%d %H:%M}Z")
    return found


def job_row(connection: Connection, job_id: UUID) -> Row[Any]:
    """A job with its lane's application and grant."""
    job, lane = schema.job, schema.lane
    statement = (
        select(job, lane.c.application, lane.c.grant_id)
        .outerjoin(lane, lane.c.id == job.c.lane_id)
        .where(job.c.id == job_id)
    )
    found = connection.execute(statement).first()
    if found is None:
        raise NotFound(f"there is no job {job_id} in this ledger; it may have been pruned after its retention")
    return found


def job(connection: Connection, job_id: UUID) -> JobView:
    """A job and its trail."""
    row = job_row(connection, job_id)
    table = schema.attempt
    trail = connection.execute(select(table).where(table.c.job_id == job_id).order_by(table.c.begun_at, table.c.id))
    return JobView(
        id=str(row.id),
        state=State(row.state),
        operation=row.operation,
        application=row.application,
        grant_id=row.grant_id,
        batch_id=str(row.batch_id) if row.batch_id else None,
        object_id=row.object_id,
        priority=Priority(row.priority),
        created_at=moment(row.created_at),
        due_at=moment(row.due_at),
        next_at=moment(row.next_at),
        expires_at=moment(row.expires_at) if row.expires_at is not None else None,
        finished_at=moment(row.finished_at) if row.finished_at is not None else None,
        attempts=row.attempts,
        rule=row.rule,
        message_id=row.message_id,
        trail=tuple(_attempt(attempt) for attempt in trail),
    )


def _attempt(row: Row[Any]) -> AttemptView:
    return AttemptView(
        begun_at=moment(row.begun_at),
        ended_at=moment(row.ended_at),
        status=row.status,
        rule=row.rule,
        route=row.route,
        sent=row.sent,
        generation=row.generation,
        error_type=row.error_type,
        error=row.error,
        request_id=row.request_id,
        replayed=row.replayed,
    )


# --- why --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that decides when a job goes, read in one transaction."""

    job: Row[Any]
    lane: Row[Any] | None
    application_hold: Row[Any] | None
    provider_hold: Row[Any] | None
    ahead: int
    workers: int
    dispatcher_until: Micros
    sealed_with: str | None  # the name of the encryption key of its body
    shut_at: Micros | None  # since when the ledger is shut
    highest_at: Micros  # the highest time that a worker has seen
    before: Row[Any] | None  # of the earlier jobs for its object that are not over, the one that goes last
    notes: Mapping[str, str]  # by scope (application, provider, grant): why a person holds it


def surroundings(connection: Connection, job_id: UUID) -> Surroundings:
    """What `sendq.rules.why` needs."""
    row = job_row(connection, job_id)
    lane_table = schema.lane
    lane = connection.execute(select(lane_table).where(lane_table.c.id == row.lane_id)).first()
    holds = {} if lane is None else pairs_of(connection, lane)
    alive = connection.execute(text("SELECT count(*) FROM sendq_worker WHERE NOT stopping")).scalar_one()
    leader = schema.leader.c
    leads = connection.execute(select(leader.expires_at, leader.shut_at, leader.highest_at)).one()
    scopes = {"application": holds.get("*"), "provider": holds.get(lane.provider) if lane is not None else None}
    return Surroundings(
        job=row,
        lane=lane,
        application_hold=scopes["application"],
        provider_hold=scopes["provider"],
        ahead=_ahead(connection, row) if row.state == State.QUEUED else 0,
        workers=int(alive),
        sealed_with=_sealed_with(connection, row),
        dispatcher_until=leads.expires_at,
        shut_at=leads.shut_at,
        highest_at=leads.highest_at,
        before=_before(connection, row) if row.state == State.QUEUED and row.object_id is not None else None,
        notes={} if lane is None else _notes(connection, {**scopes, "grant": lane}, lane),
    )


def _notes(connection: Connection, holds: Mapping[str, Row[Any] | None], lane: Row[Any]) -> dict[str, str]:
    """What was written down as the reasons of holds by hand: the events bear the time at which the holds began."""
    table = schema.event.c
    found = {}
    for scope, row in holds.items():
        if row is None or row.held_rule != BY_HAND:
            continue
        reason = connection.execute(
            select(table.reason)
            .where(
                table.at == row.held_since,
                table.kind == "hold",
                table.application == lane.application,
                table.provider.is_(None) if scope == "application" else table.provider == lane.provider,
                table.grant_id == lane.grant_id if scope == "grant" else table.grant_id.is_(None),
            )
            .limit(1)
        ).scalar()
        if reason is not None:
            found[scope] = reason
    return found


def pairs_of(connection: Connection, lane: Row[Any]) -> dict[str, Row[Any]]:
    """The pairs that a lane belongs to: its provider's, and ``*``, the application's as a whole."""
    table = schema.pair
    wanted = select(table).where(table.c.application == lane.application, table.c.provider.in_([lane.provider, "*"]))
    return {pair.provider: pair for pair in connection.execute(wanted)}


def hold_ends(connection: Connection, lane: Row[Any]) -> Micros:
    """When the last of the holds that concern a lane ends; in the past if there is none."""
    return max((row.held_until or 0 for row in (lane, *pairs_of(connection, lane).values())), default=0)


def _sealed_with(connection: Connection, row: Row[Any]) -> str | None:
    body, of = (schema.payload, row.id) if row.batch_id is None else (schema.batch, row.batch_id)
    (identity,) = body.primary_key.columns
    return connection.execute(select(body.c.cipher_key).where(identity == of)).scalar()


def _before(connection: Connection, row: Row[Any]) -> Row[Any] | None:
    table = schema.job.c
    return connection.execute(
        select(schema.job)
        .where(
            table.lane_id == row.lane_id,
            table.object_id == row.object_id,
            table.state.in_([State.QUEUED.value, State.SENDING.value]),
            tuple_(table.due_at, table.id) < (row.due_at, row.id),
        )
        .order_by(table.state.desc(), table.next_at.desc())  # "sending" goes before "queued"
        .limit(1)
    ).first()


def _ahead(connection: Connection, row: Row[Any]) -> int:
    table = schema.job.c
    before = (
        select(table.id)
        .where(
            table.lane_id == row.lane_id,
            table.state == State.QUEUED.value,
            tuple_(table.priority, table.next_at, table.id) < (row.priority, row.next_at, row.id),
        )
        .limit(AHEAD_MOST)
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(before)).scalar_one())
