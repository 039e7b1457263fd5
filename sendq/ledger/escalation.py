"""Escalation: many grants that fail alike within minutes are a problem above them, and no owner is asked to sign in.

The provider is held instead, and the grants are opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, and_, exists, func, or_, select

from sendq.clock import Micros
from sendq.facts.lanes import UNKNOWN
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import hold_for_grants
from sendq.ledger.grants import SUSPECTED_MOST, note_event

# The author of a pair's hold when many of its grants failed alike.
ESCALATION = "escalation"


@dataclass(frozen=True, slots=True)
class Escalated:
    """Many grants failed alike: the cause is assumed to be above them."""

    application: str
    provider: str
    rule: str
    grants: int


def escalate(
    connection: Connection, *, rules: Collection[str], since: Micros, number: int, held_until: Micros, now: Micros
) -> list[Escalated]:
    """If ``number`` grants of a pair were closed by one of ``rules`` since ``since``: hold the pair, and open them.

    Their owners are not asked to sign in again, unless their lane is closed once more after the hold. Grants whose
    provider is unknown are held one by one, because others of that kind may have any provider. Not counted are
    grants that the API itself calls invalid, grants that were opened by an earlier hold for the same incident (the pair
    has had no success since), and grants after whose refusal another grant of the pair succeeded.
    """
    table, pair = schema.lane, schema.pair.c
    this = (pair.application == table.c.application, pair.provider == table.c.provider)
    same_trouble = or_(pair.proven_at.is_(None), pair.proven_at < pair.held_since)
    counted = exists().where(*this, pair.held_by == ESCALATION, pair.held_since <= table.c.opened_at, same_trouble)
    counted_alone = and_(
        table.c.held_by == ESCALATION, table.c.held_since <= table.c.opened_at, table.c.streak > 0
    )  # of an unknown provider
    works = exists().where(*this, pair.proven_at >= table.c.closed_at)
    asked = table.c.checks > 0
    doubtful = or_(
        and_(table.c.suspected, asked),
        and_(~table.c.suspected, or_(~asked, table.c.refused >= SUSPECTED_MOST)),
    )
    alone = or_(table.c.provider != UNKNOWN, ~func.coalesce(counted_alone, False))
    fresh = (table.c.closed_rule.in_(rules), table.c.closed_at >= since, ~table.c.gone, doubtful, ~counted, alone)
    groups: dict[tuple[str, str, str], list[UUID]] = {}
    for row in connection.execute(select(table).where(*fresh, ~works)):
        groups.setdefault((row.application, row.provider, row.closed_rule), []).append(row.id)
    alike = {name: ids for name, ids in sorted(groups.items()) if len(ids) >= number}
    # For all groups at once, lanes before pairs: the lock order used everywhere.
    closed = [lane_id for ids in alike.values() for lane_id in ids]
    _open_closed(connection, dict.fromkeys(closed, held_until), now=now)
    for (application, provider, rule), ids in alike.items():
        if provider != UNKNOWN:
            hold_for_grants(connection, application, provider, until=held_until, rule=rule, by=ESCALATION, now=now)
        events.append(
            connection,
            "escalated",
            at=now,
            by="policy",
            application=application,
            provider=provider,
            rule=rule,
            reason=f"{len(ids)} grants failed alike",
        )
    return [Escalated(*name, len(ids)) for name, ids in alike.items()]


def open_stragglers(connection: Connection, *, now: Micros) -> None:
    """Open lanes whose refusal was on the wire when their pair was held for it: it is the same incident.

    Call it before `escalate`, in a separate transaction.
    """
    table, pair = schema.lane, schema.pair.c
    held_for_it = exists().where(
        pair.application == table.c.application,
        pair.provider == table.c.provider,
        pair.held_by == ESCALATION,
        pair.held_rule == table.c.closed_rule,
        pair.held_until > now,
        pair.held_since <= table.c.closed_at,
    )
    closed = table.c.closed_at.is_not(None)  # implied by having a rule; it lets an index be used
    ids = connection.execute(select(table.c.id).where(closed, held_for_it, ~table.c.gone)).scalars().all()
    held = table.alias()
    alone_until = (
        select(func.max(held.c.held_until))
        .where(
            held.c.application == table.c.application,
            held.c.provider == UNKNOWN,
            held.c.held_by == ESCALATION,
            held.c.held_rule == table.c.closed_rule,
            held.c.held_until > now,
            held.c.held_since <= table.c.closed_at,
        )
        .scalar_subquery()
    )
    unknown = select(table.c.id, alone_until.label("until")).where(
        closed, table.c.provider == UNKNOWN, ~table.c.gone, alone_until.is_not(None)
    )
    alone = {row.id: row.until for row in connection.execute(unknown)}
    _open_closed(connection, dict.fromkeys(ids) | alone, now=now)


def _open_closed(connection: Connection, lanes: Mapping[UUID, Micros | None], *, now: Micros) -> None:
    """Open these lanes, except those that were opened or found gone before they were locked here.

    Each with the end of its hold: for lanes whose provider is unknown, which no hold of a provider covers.
    """
    changes = [
        change for change in lock_changes(connection, lanes).values() if change.lane.is_closed and not change.lane.gone
    ]
    for change in changes:
        change.reopen(now=now)
        held_until = lanes[change.lane.id]
        if held_until is not None and change.lane.provider == UNKNOWN:
            change.hold_after_check(held_until, rule=str(change.lane.closed_rule), by=ESCALATION, now=now)
    write_changes(connection, changes, now=now)
    for change in changes:
        note_event(connection, "reopened", change.lane, by=ESCALATION, rule=change.lane.closed_rule, now=now)
