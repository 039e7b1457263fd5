"""Holds by operators: pause a scope until a given time, end any hold, or reopen a closed lane.

    scope                    stored in                       immediate effect of a hold
    a grant                  its lane                        its next calls do not begin
    a provider               the pair of one application     its lanes are not dispatched
    a whole application      the pair "*"                    none of its lanes is dispatched
    a tag                    its own table                   its jobs are put off when their lanes come to them

A turn that was offered but not yet claimed is taken back. A turn of a *pair* that a worker has claimed, or that is
being offered at that moment, runs to its end, about two seconds. A hold never shortens an existing one: release that
first. After a release, as after every hold, a single call goes first; then 1, 2, 4 … at once.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, literal_column, select, text, update

from sendq.clock import Micros, moment
from sendq.facts.lanes import WHOLE_APPLICATION, Lane, Pair
from sendq.ids import lane_id
from sendq.ledger import events, grants
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lane_paces import pace_columns
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import end_hold, hold_by_hand, lock_pairs, make_pairs
from sendq.ledger.enqueue import notify
from sendq.rules.paces import Paces
from sendq.rules.rule_ids import BY_HAND
from sendq.rules.states import State
from sendq.scope import COUNT_MOST, ScopeState

Released = Literal["released", "reopened"]

# One statement, because the leader may delete the row of the last hold at any time.
_HOLD_TAG = text(
    "INSERT INTO sendq_tag_hold (application, tag, held_until, held_since, held_by)"
    " VALUES (:application, :tag, :held_until, :held_since, :held_by)"
    " ON CONFLICT (application, tag) DO UPDATE SET held_until = excluded.held_until, held_since = excluded.held_since,"
    " held_by = excluded.held_by, brought_back_to = NULL"
    " WHERE sendq_tag_hold.held_until <= excluded.held_until RETURNING tag"
)


def hold_grant(
    connection: Connection, application: str, grant_id: str, *, until: Micros, by: str, reason: str, now: Micros
) -> bool:
    """Hold one grant until ``until``; returns False, and changes nothing, if it is already held for longer.

    A grant that never had a job gets its lane now, so that the hold applies to its first job.
    """
    lane = lane_made_for(connection, application, grant_id, now=now)
    change = lock_changes(connection, [lane])[lane]
    row = change.lane
    if _outlasts(row, until):
        return False
    change.hold_until(until, since=now, rule=BY_HAND, by=by)
    change.restart()
    if row.is_offered:
        change.close_turn()
    write_changes(connection, [change], now=now)
    events.append(
        connection,
        "hold",
        at=now,
        by=by,
        application=application,
        provider=row.provider,
        grant_id=grant_id,
        rule=BY_HAND,
        reason=reason,
    )
    return True


def hold_pair(
    connection: Connection, application: str, provider: str, *, until: Micros, by: str, reason: str, now: Micros
) -> bool:
    """Hold a provider of an application, or (`WHOLE_APPLICATION`) all of it, until ``until``; False as above."""
    table = schema.lane.c
    offered = connection.execute(select(table.id).where(*_of(application, provider), table.turn == "offered"))
    # Lanes first, then pairs: the order in which everybody locks them.
    lanes = [change for change in lock_changes(connection, offered.scalars()).values() if change.lane.is_offered]
    make_pairs(connection, [(application, provider)])
    if _outlasts(lock_pairs(connection, [application])[application, provider], until):
        return False
    for change in lanes:
        change.close_turn()
    write_changes(connection, lanes, now=now)
    hold_by_hand(connection, application, provider, until=until, rule=BY_HAND, by=by, now=now)
    _pair_event(connection, "hold", application, provider, by=by, rule=BY_HAND, reason=reason, now=now)
    return True


def release_grant(
    connection: Connection, application: str, grant_id: str, *, by: str, reason: str, now: Micros
) -> Released | None:
    """End a grant's hold, and reopen its lane if it is closed; returns None if it was neither."""
    lane = lane_id(application, grant_id)
    change = lock_changes(connection, [lane]).get(lane)
    if change is None:
        return None
    row = change.lane
    held = row.held_until is not None and row.held_until > now
    if held:
        change.release_by_hand()
        notify(connection, at=write_changes(connection, [change], now=now))
        events.append(
            connection,
            "release",
            at=now,
            by=by,
            application=application,
            provider=row.provider,
            grant_id=grant_id,
            rule=row.held_rule,
            reason=reason,
        )
    if grants.reopen(connection, lane, by=by, now=now, reason=reason):
        return "reopened"
    return "released" if held else None


def release_pair(
    connection: Connection, application: str, provider: str, *, by: str, reason: str, now: Micros
) -> Released | None:
    """End the hold of a provider or a whole application; returns None if there was none. Holds of grants stay."""
    row = lock_pairs(connection, [application]).get((application, provider))
    if row is None or row.held_until is None or row.held_until <= now:
        return None
    end_hold(connection, application, provider)
    _pair_event(connection, "release", application, provider, by=by, rule=row.held_rule, reason=reason, now=now)
    notify(connection, at=now)
    return "released"


def hold_tag(
    connection: Connection, application: str, tag: str, *, until: Micros, by: str, reason: str, now: Micros
) -> bool:
    """Hold the jobs with a tag, those to come included, until ``until``; False as above."""
    row = {"application": application, "tag": tag, "held_until": until, "held_since": now, "held_by": by}
    if connection.execute(_HOLD_TAG, row).first() is None:
        return False
    _tag_event(connection, "hold", application, tag, by=by, reason=reason, now=now)
    return True


def release_tag(
    connection: Connection, application: str, tag: str, *, by: str, reason: str, now: Micros
) -> Released | None:
    """End the hold of a tag; returns None if there was none. The leader brings back the jobs that it put off."""
    table = schema.tag_hold
    this = update(table).where(table.c.application == application, table.c.tag == tag, table.c.held_until > now)
    # Over by every clock, one that is behind included.
    if not connection.execute(this.values(held_until=0)).rowcount:
        return None
    _tag_event(connection, "release", application, tag, by=by, reason=reason, now=now)
    return "released"


def _tag_event(
    connection: Connection, kind: str, application: str, tag: str, *, by: str, reason: str, now: Micros
) -> None:
    events.append(connection, kind, at=now, by=by, application=application, tag=tag, rule=BY_HAND, reason=reason)


def _outlasts(row: Lane | Pair, until: Micros) -> bool:
    return row.held_until is not None and row.held_until > until


def lane_made_for(connection: Connection, application: str, grant_id: str, *, now: Micros) -> UUID:
    """The grant's lane, created if necessary. Its provider becomes known with the first job that names one."""
    lane, provider = lane_id(application, grant_id), "unknown"
    row = {
        "id": lane,
        "application": application,
        "grant_id": grant_id,
        "provider": provider,
        "created_at": now,
        "ramp": 1,
        # Replaced by the dispatcher once it knows the provider.
        **pace_columns(Paces(), application, provider, grant_id),
    }
    if insert_new(connection, schema.lane, [row], returning="id"):
        make_pairs(connection, [(application, provider)])
    return lane


def _of(application: str, provider: str) -> list[ColumnElement[bool]]:
    """The conditions for lanes that belong to a pair."""
    table = schema.lane.c
    whole = [table.application == application]
    return whole if provider == WHOLE_APPLICATION else [*whole, table.provider == provider]


def _pair_event(
    connection: Connection,
    kind: str,
    application: str,
    provider: str,
    *,
    by: str,
    rule: str | None,
    reason: str,
    now: Micros,
) -> None:
    events.append(
        connection,
        kind,
        at=now,
        by=by,
        application=application,
        provider=None if provider == WHOLE_APPLICATION else provider,
        rule=rule,
        reason=reason,
    )


# --- look -------------------------------------------------------------------------------------------------------------


def grant_state(connection: Connection, application: str, grant_id: str, *, now: Micros) -> ScopeState:
    """A grant as it is now."""
    lane = lane_id(application, grant_id)
    row = connection.execute(select(schema.lane).where(schema.lane.c.id == lane)).first()
    waiting = _waiting(connection, select(schema.job.c.id).where(schema.job.c.lane_id == lane), COUNT_MOST)
    return _state(row, known=row is not None, waiting=waiting, now=now)


def pair_state(connection: Connection, application: str, provider: str, *, now: Micros) -> ScopeState:
    """A provider of an application as it is now, or (`WHOLE_APPLICATION`) all of the application."""
    job, pair = schema.job.c, schema.pair
    lanes = select(schema.lane.c.id).where(*_of(application, provider))
    known = connection.execute(lanes.limit(1)).first() is not None
    waiting = _waiting(connection, select(job.id).where(job.lane_id.in_(lanes)), COUNT_MOST)
    this = select(pair).where(pair.c.application == application, pair.c.provider == provider)
    return _state(connection.execute(this).first(), known=known, waiting=waiting, now=now)


def tag_state(connection: Connection, application: str, tag: str, *, now: Micros) -> ScopeState:
    """The jobs with a tag as they are now."""
    job, lane, index = schema.job.c, schema.lane.c, schema.job_tag.c
    known = connection.execute(select(index.job_id).where(index.tag == tag).limit(1)).first() is not None
    jobs = (
        select(job.id)
        .join(schema.job_tag, index.job_id == job.id)
        .join(schema.lane, lane.id == job.lane_id)
        .where(index.tag == tag, lane.application == application)
    )
    waiting = _waiting(connection, jobs, COUNT_MOST)
    table = schema.tag_hold
    held = select(table).where(table.c.application == application, table.c.tag == tag, table.c.held_until > now)
    row = connection.execute(held).first()
    if row is None:
        return ScopeState(known, waiting)
    return ScopeState(known, waiting, moment(row.held_until), BY_HAND, row.held_by)


def held_above(
    connection: Connection, application: str, *, grant_id: str | None, provider: str | None, now: Micros
) -> list[str]:
    """The pairs around a grant or a provider that are held now, by provider: its own, `WHOLE_APPLICATION`, or both."""
    if grant_id is not None:
        lane = select(schema.lane.c.provider).where(schema.lane.c.id == lane_id(application, grant_id))
        around = [connection.execute(lane).scalar(), WHOLE_APPLICATION]
    else:
        around = [WHOLE_APPLICATION] if provider is not None else []
    table = schema.pair.c
    wanted = select(table.provider).where(
        table.application == application, table.provider.in_(around), table.held_until > now
    )
    return list(connection.execute(wanted.order_by(table.provider)).scalars())


def _state(row: Row[Any] | None, *, known: bool, waiting: int, now: Micros) -> ScopeState:
    if row is None:
        return ScopeState(known, waiting)
    closed = getattr(row, "closed_at", None) is not None
    if row.held_until is None or row.held_until <= now:
        return ScopeState(known, waiting, closed=closed)
    return ScopeState(known, waiting, moment(row.held_until), row.held_rule, row.held_by, closed)


def _waiting(connection: Connection, jobs: Select[tuple[UUID]], most: int) -> int:
    # The state is spelled out in the statement: SQLite uses a partial index only if it sees the value.
    waits = schema.job.c.state == literal_column(f"'{State.QUEUED.value}'")
    some = jobs.where(waits).limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())
