"""Pairs: an application with one of its providers, or the application as a whole. All writes of their rows are here.

A pair is held when an answer concerns more than one grant, or by an operator; after a hold it has to prove itself, with
one call at a time, then 2, 4 …

A transaction that locks pairs creates those that it needs before: another one may have created the same pair, and be
waiting for a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    case,
    exists,
    select,
    true,
    update,
)

from sendq.clock import SECOND, Micros
from sendq.facts.lanes import WHOLE_APPLICATION, Pair
from sendq.facts.outcomes import Hold
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lanes import NEVER
from sendq.rules.pace import PROVEN_FOR, RAMP_MOST
from sendq.rules.rule_ids import KEY_CHECK


def make_pairs(connection: Connection, names: Iterable[tuple[str, str]]) -> None:
    """Create those of these pairs that do not exist yet."""
    rows = [{"application": application, "provider": provider} for application, provider in sorted(names)]
    insert_new(connection, schema.pair, rows, returning="provider")


def lock_pairs(connection: Connection, applications: Iterable[str]) -> dict[tuple[str, str], Pair]:
    """Lock all pairs of these applications, in the order of their names, and read them as they are now."""
    table = schema.pair
    query = select(table).where(table.c.application.in_(sorted(set(applications))))
    rows = connection.execute(query.order_by(table.c.application, table.c.provider).with_for_update())
    return {(row[0], row[1]): Pair._make(row) for row in rows}


# --- what the dispatcher sees -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairView:
    """One (application, provider): when its hold ends, and when the first two of its lanes want their turns."""

    application: str
    provider: str
    held_until: Micros
    next_at: Micros | None
    then_at: Micros | None = None
    ramp: int | None = None  # total calls at once, while it is not known to work
    proven_at: Micros | None = None

    def allows(self, *, now: Micros) -> int | None:
        """Total calls at once that are allowed now; None: no limit."""
        if self.ramp is not None:
            return self.ramp
        return None if self.proven_at is not None and now - self.proven_at < PROVEN_FOR else 1

    @property
    def wants_at(self) -> Micros:
        """When the dispatcher should look at it again."""
        return NEVER if self.next_at is None else max(self.next_at, self.held_until)

    @property
    def then_wants_at(self) -> Micros:
        """When to look at it again once its first lane has its turn."""
        return NEVER if self.then_at is None else max(self.then_at, self.held_until)


def read_pairs(connection: Connection) -> list[PairView]:
    """Every pair with its hold (its own, or its application's) and the times when its first two lanes are due."""
    return views_of(constant.rows(connection, pairs_with_times(()), {}))


def views_of(rows: Iterable[Sequence[Any]]) -> list[PairView]:
    """The pairs from rows of `pairs_with_times`."""
    found = [(Pair._make(pair), next_at, then_at) for *pair, next_at, then_at in rows]
    whole = {pair.application: pair.held_until or 0 for pair, *_ in found if pair.provider == WHOLE_APPLICATION}
    return [
        PairView(
            pair.application,
            pair.provider,
            max(pair.held_until or 0, whole.get(pair.application, 0)),
            next_at,
            then_at,
            pair.ramp,
            pair.proven_at,
        )
        for pair, next_at, then_at in found
        if pair.provider != WHOLE_APPLICATION
    ]


def pairs_with_times(floors: Iterable[tuple[tuple[str, str], str]]) -> Select[Any]:
    """The statement for `views_of`. ``floors``: the parameters with which the search for a pair's lanes begins."""
    table, lanes = schema.pair, schema.lane.c
    floor = case(
        *(
            (and_(table.c.application == application, table.c.provider == provider), bindparam(at, type_=BigInteger))
            for (application, provider), at in floors
        ),
        (true(), 0),
        else_=0,
    )
    due = (
        select(lanes.next_at)
        .where(
            lanes.application == table.c.application,
            lanes.provider == table.c.provider,
            lanes.turn.is_(None),
            lanes.next_at >= floor,
        )
        .order_by(lanes.next_at)
        .limit(1)
    )
    times = due.scalar_subquery().label("next_at"), due.offset(1).scalar_subquery().label("then_at")
    return select(table, *times)


# --- proving itself ---------------------------------------------------------------------------------------------------


def unprove(connection: Connection, pair: PairView) -> None:
    """Restrict a pair whose last success is too old to one call at a time at first."""
    connection.execute(_one(pair.application, pair.provider).where(schema.pair.c.ramp.is_(None)).values(ramp=1))


def prove(connection: Connection, application: str, provider: str, *, begun_at: Micros, now: Micros) -> int | None:
    """A call of this pair that began at ``begun_at`` succeeded; returns the pair's ramp, None if it has none any more.

    A success that was on the wire when a hold began proves nothing about calls after it.
    """
    table = schema.pair
    doubled = case((table.c.ramp * 2 > RAMP_MOST, None), else_=table.c.ramp * 2)
    above = table.alias()
    held_above = exists().where(
        above.c.application == application, above.c.provider == WHOLE_APPLICATION, above.c.held_since > begun_at
    )
    since = _one(application, provider).where(
        table.c.held_since.is_(None) | (table.c.held_since <= begun_at), ~held_above
    )
    ramp = connection.execute(since.values(proven_at=now, ramp=doubled, streak=0).returning(table.c.ramp)).scalar()
    whole = _one(application, WHOLE_APPLICATION).where(table.c.streak > 0, table.c.held_since <= begun_at)
    connection.execute(whole.values(streak=0))
    return ramp


def restart(connection: Connection, application: str, provider: str) -> None:
    """A single call first, in all lanes of this pair."""
    table = schema.pair
    all_of_it = update(table).where(table.c.application == application)
    whole = provider == WHOLE_APPLICATION
    connection.execute((all_of_it if whole else _one(application, provider)).values(ramp=1))


# --- holds ------------------------------------------------------------------------------------------------------------


def hold_for_answer(
    connection: Connection, application: str, provider: str, hold: Hold, *, begun_at: Micros, now: Micros
) -> int | None:
    """Hold a (locked) pair because of the answer to a call begun at ``begun_at``; returns its holds since the last
    success, including this one, or None if an earlier answer of the same incident began the hold, or it is held longer.
    """
    table = schema.pair
    this = (
        _one(application, provider)
        .where(table.c.held_since.is_(None) | (table.c.held_since <= begun_at))
        .where(table.c.held_until.is_(None) | (table.c.held_until <= (hold.until or 0)))
        .values(
            held_until=hold.until,
            held_since=now,
            held_rule=hold.rule,
            held_by=hold.by,
            streak=table.c.streak + 1,
        )
    )
    streak = connection.execute(this.returning(table.c.streak)).scalar()
    if streak is None:
        return None
    restart(connection, application, provider)
    return int(streak)


# How long an application is paused while its key is checked, if no answer comes: the leader asks within seconds.
KEY_CHECK_MOST: Micros = 30 * SECOND


def pause_for_key_check(connection: Connection, application: str, *, now: Micros) -> bool:
    """Pause a (locked) application until its API key is checked (`end_key_check`); False: it is held already."""
    table = schema.pair
    this = _one(application, WHOLE_APPLICATION).where(table.c.held_until.is_(None) | (table.c.held_until <= now))
    held = {"held_until": now + KEY_CHECK_MOST, "held_since": now, "held_rule": KEY_CHECK, "held_by": "policy"}
    paused = connection.execute(this.values(**held)).rowcount > 0
    if paused:
        restart(connection, application, WHOLE_APPLICATION)
    return paused


def end_key_check(connection: Connection, application: str) -> None:
    """The key is the right one: the application goes on, with a single call first."""
    this = _one(application, WHOLE_APPLICATION).where(schema.pair.c.held_rule == KEY_CHECK)
    connection.execute(this.values(held_until=None, held_since=None, held_rule=None, held_by=None))


def streak_of(connection: Connection, application: str, provider: str, hold: Hold) -> int | None:
    """The number of holds of a pair since its last success, if this hold is the one in force."""
    pair = schema.pair.c
    query = select(pair.streak).where(
        pair.application == application,
        pair.provider == provider,
        pair.held_until == hold.until,
        pair.held_rule == hold.rule,
    )
    return connection.execute(query).scalar()


def hold_by_hand(
    connection: Connection, application: str, provider: str, *, until: Micros, rule: str, by: str, now: Micros
) -> None:
    """Hold a (locked) pair until ``until``, replacing any hold; a single call first afterwards."""
    held = {"held_until": until, "held_since": now, "held_rule": rule, "held_by": by, "ramp": 1}
    connection.execute(_one(application, provider).values(**held))
    restart(connection, application, provider)


def hold_for_grants(
    connection: Connection, application: str, provider: str, *, until: Micros, rule: str, by: str, now: Micros
) -> None:
    """Hold a pair because many of its grants failed alike; a longer hold is kept."""
    table = schema.pair
    this = _one(application, provider).where(table.c.held_until.is_(None) | (table.c.held_until <= until))
    connection.execute(this.values(held_until=until, held_since=now, held_rule=rule, held_by=by, ramp=1))


def end_hold(connection: Connection, application: str, provider: str) -> None:
    """End the hold of a pair; a single call first."""
    connection.execute(_one(application, provider).values(held_until=None))
    restart(connection, application, provider)


def write_pair(connection: Connection, application: str, provider: str, columns: Mapping[str, Any]) -> None:
    """Set columns of a (locked) pair."""
    connection.execute(_one(application, provider).values(**columns))


def _one(application: str, provider: str) -> Update:
    table = schema.pair
    return update(table).where(table.c.application == application, table.c.provider == provider)
