"""Holding and releasing many grants: a slice of them in each transaction.

A slice locks its lanes, and changes those that still match: between the count and the act, a hold may have ended, and
another rule may have begun one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, select

from sendq.clock import Micros
from sendq.facts.lanes import WHOLE_APPLICATION, Lane
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.ledger.dispatching.pairs import end_hold, lock_pairs
from sendq.ledger.enqueue import notify
from sendq.ledger.reading.grants import GrantQuery
from sendq.rules.lane_change import LaneChange
from sendq.rules.rule_ids import BY_HAND
from sendq.views import GrantState

# Lanes in one transaction: few enough that they stay locked for some ten milliseconds only.
STEP = 200


@dataclass(frozen=True, slots=True)
class Author:
    """Who acts, and why; ``act``: the event of the act that these changes are a part of."""

    by: str
    reason: str
    act: UUID


@dataclass(slots=True)
class Slice:
    """What one transaction did: lanes whose hold ended, and those that were opened."""

    released: list[UUID] = field(default_factory=list)
    reopened: list[UUID] = field(default_factory=list)


def release_some(
    connection: Connection,
    lanes: Sequence[UUID],
    which: GrantQuery,
    author: Author,
    *,
    first_at: Micros,
    apart: Micros,
    now: Micros,
) -> Slice:
    """Release those of these lanes that still match, the first at ``first_at`` and each further one ``apart`` later."""
    changes = lock_changes(connection, lanes)
    matching = [changes[lane] for lane in lanes if lane in changes and _matches(changes[lane].lane, which, now=now)]
    done = Slice()
    for position, change in enumerate(matching):
        at = first_at + position * apart
        (done.reopened if change.lane.is_closed else done.released).append(change.lane.id)
        _release(change, at=at if at > now else None, by=author.by, now=now)
    notify(connection, at=write_changes(connection, matching, now=now))
    kinds = dict.fromkeys(done.released, "release") | dict.fromkeys(done.reopened, "reopened")
    _note(connection, [(change.lane, kinds[change.lane.id]) for change in matching], author, now=now)
    return done


def _release(change: LaneChange, *, at: Micros | None, by: str, now: Micros) -> None:
    lane = change.lane
    if lane.is_closed:
        change.reopen_authorised(now=now)
        if at is not None:
            change.hold_until(at, since=now, rule=BY_HAND, by=by)
            return
    change.release_by_hand(at)


def hold_some(
    connection: Connection, lanes: Sequence[UUID], which: GrantQuery, author: Author, *, until: Micros, now: Micros
) -> Sequence[UUID]:
    """Hold those of these lanes that still match until ``until``, except those that are held for longer."""
    changes = lock_changes(connection, lanes)
    held = [
        change
        for change in changes.values()
        if _matches(change.lane, which, now=now) and (change.lane.held_until or 0) < until
    ]
    for change in held:
        change.hold_until(until, since=now, rule=BY_HAND, by=author.by)
        change.restart()
        if change.lane.is_offered:
            change.close_turn()
    write_changes(connection, held, now=now)
    _note(connection, [(change.lane, "hold") for change in held], author, now=now)
    return [change.lane.id for change in held]


def longer_held(connection: Connection, lanes: Sequence[UUID], *, until: Micros) -> int:
    """How many of these lanes are held until ``until`` or longer."""
    table = schema.lane.c
    query = select(table.id).where(table.id.in_(lanes), table.held_until >= until)
    return len(connection.execute(query).all())


def wide(connection: Connection, which: GrantQuery, *, now: Micros) -> list[tuple[str, str]]:
    """Holds of whole providers and applications by the rule that ``which`` names, as (application, provider)."""
    of_many = which.rule is not None and which.scope.grant is None and which.batch_id is None
    if not of_many or not which.has(GrantState.HELD):
        return []
    table = schema.pair.c
    query = select(table.application, table.provider).where(
        table.held_until > now, table.held_rule == which.rule, *which.period.of_times(table.held_since)
    )
    pairs = ((table.application, which.scope.application), (table.provider, which.scope.provider))
    query = query.where(*(column == value for column, value in pairs if value is not None))
    return [(row.application, row.provider) for row in connection.execute(query.order_by(*query.selected_columns))]


def release_wide(
    connection: Connection, pairs: Sequence[tuple[str, str]], rule: str, author: Author, *, now: Micros
) -> list[tuple[str, str]]:
    """End the holds of these pairs that are still in force by ``rule``; returns those."""
    if not pairs:
        return []
    locked = lock_pairs(connection, {application for application, _ in pairs})
    done = []
    for name in pairs:
        pair = locked.get(name)
        if pair is None or pair.held_rule != rule or (pair.held_until or 0) <= now:
            continue
        end_hold(connection, *name)
        events.append(
            connection, "release", at=now, by=author.by, application=pair.application, rule=rule,
            provider=None if pair.provider == WHOLE_APPLICATION else pair.provider,
            reason=author.reason, act=author.act,
        )  # fmt: skip
        done.append(name)
    if done:
        notify(connection, at=now)
    return done


def _matches(lane: Lane, which: GrantQuery, *, now: Micros) -> bool:
    """Whether a lane still has a wanted state and rule. One whose grant no longer exists has nothing to send."""
    held = lane.held_until is not None and lane.held_until > now
    state = GrantState.CLOSED if lane.is_closed else GrantState.HELD if held else GrantState.OPEN
    rule = lane.closed_rule if lane.is_closed else lane.held_rule if held else None
    return not lane.gone and which.has(state) and which.rule in (None, rule)


def _note(connection: Connection, lanes: Sequence[tuple[Lane, str]], author: Author, *, now: Micros) -> None:
    """The parts of the act's event: one for each lane."""
    events.append_all(
        connection,
        [
            events.event(
                kind, at=now, by=author.by, application=lane.application, provider=lane.provider,
                grant_id=lane.grant_id, rule=BY_HAND if kind == "hold" else lane.closed_rule or lane.held_rule,
                reason=author.reason, act=author.act,
            )
            for lane, kind in lanes
        ],
    )  # fmt: skip
