"""What is held or closed, grouped by rule and provider, with the jobs that wait behind it.

Every query uses an index and is bounded: `LANES_MOST` lanes are read, through the indexes of those that are held or
closed, and `JOBS_MOST` jobs, through the index of waiting ones. Where a bound is reached, the view says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, select

from sendq.clock import Micros, micros, moment
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import chunks, one_of
from sendq.ledger.reading.filters import ANYWHERE, LaneFilter
from sendq.ledger.reading.paging import literal
from sendq.rules.states import State
from sendq.views import GrantState, HeldGroup

LANES_MOST = 20_000
JOBS_MOST = 200_000

# The end of the calendar: numbers for alerts must not fail because of one wrong time.
_LATEST = micros(datetime(9999, 12, 31, tzinfo=UTC))

_lane = schema.lane.c


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that wait: how many (at least, if ``more``), and when the oldest of those that are due was due."""

    number: int = 0
    more: bool = False
    oldest: Micros | None = None

    def __add__(self, other: Waiting) -> Waiting:
        times = [at for at in (self.oldest, other.oldest) if at is not None]
        return Waiting(self.number + other.number, self.more or other.more, min(times, default=None))


class Group(NamedTuple):
    """What a group has in common."""

    application: str
    provider: str | None
    rule: str | None
    scope: str
    state: GrantState


@dataclass(frozen=True, slots=True)
class Member:
    """A lane that is held or closed, or the hold of a pair with its lanes."""

    lanes: Sequence[UUID]
    since: Micros | None
    until: Micros | None
    more: bool = False


def held(
    connection: Connection, *, scope: LaneFilter = ANYWHERE, rule: str | None = None, now: Micros
) -> tuple[HeldGroup, ...]:
    """The groups in which grants are held or closed, those with the most waiting jobs first."""
    members: dict[Group, list[Member]] = {}
    lanes = [*_lanes(connection, _closed(rule), scope), *_lanes(connection, _held(rule, now=now), scope)]
    for group, member in (*lanes[:LANES_MOST], *_pairs(connection, scope, rule, now=now)):
        members.setdefault(group, []).append(member)
    waiting = _waiting(connection, {lane for of in members.values() for member in of for lane in member.lanes}, now)
    groups = [_group(group, of, waiting) for group, of in members.items()]
    if len(lanes) > LANES_MOST:
        groups = [replace(one, more_grants=True) if one.scope == "grant" else one for one in groups]
    return tuple(sorted(groups, key=lambda one: (-one.waiting, -one.grants, one.application, one.rule or "")))


def closed_among(connection: Connection, lanes: Sequence[UUID]) -> int:
    """How many of these lanes are closed."""
    closed = select(func.count()).select_from(schema.lane).where(_lane.closed_at.is_not(None))
    return sum(
        int(connection.execute(closed.where(one_of(connection, _lane.id, part))).scalar_one()) for part in chunks(lanes)
    )


def waiting_behind(connection: Connection, lanes: Sequence[UUID], pairs: Iterable[tuple[str, str]]) -> Waiting:
    """The waiting jobs of these lanes and of all lanes of these pairs."""
    all_of_them = {*lanes}
    more = len(all_of_them) > LANES_MOST
    for name in pairs:
        some = _of_pair(connection, *name)
        more = more or len(some) > LANES_MOST
        all_of_them.update(some)
    found = _waiting(connection, set(sorted(all_of_them)[:LANES_MOST]), 0)
    return sum(found.values(), Waiting(more=more))


def _closed(rule: str | None) -> list[ColumnElement[bool]]:
    closed = [_lane.closed_at.is_not(None), ~_lane.gone]
    return closed if rule is None else [*closed, _lane.closed_rule == rule]


def _held(rule: str | None, *, now: Micros) -> list[ColumnElement[bool]]:
    held = [_lane.held_until > now, _lane.closed_at.is_(None)]
    return held if rule is None else [*held, _lane.held_rule == rule]


def _lanes(
    connection: Connection, state: list[ColumnElement[bool]], scope: LaneFilter
) -> Iterable[tuple[Group, Member]]:
    names = (_lane.id, _lane.application, _lane.provider, _lane.closed_at, _lane.closed_rule, _lane.held_until,
             _lane.held_since, _lane.held_rule)  # fmt: skip
    found = connection.execute(select(*names).where(*state, *scope.conditions(_lane.id)).limit(LANES_MOST + 1))
    for row in found:
        closed = row.closed_at is not None
        decided = row.closed_rule if closed else row.held_rule
        state_ = GrantState.CLOSED if closed else GrantState.HELD
        since, until = (row.closed_at, None) if closed else (row.held_since, row.held_until)
        yield Group(row.application, row.provider, decided, "grant", state_), Member([row.id], since, until)


def _pairs(
    connection: Connection, scope: LaneFilter, rule: str | None, *, now: Micros
) -> Iterable[tuple[Group, Member]]:
    if scope.grant is not None:
        return
    table = schema.pair.c
    pairs = ((table.application, scope.application), (table.provider, scope.provider), (table.held_rule, rule))
    query = select(schema.pair).where(table.held_until > now, *(column == one for column, one in pairs if one))
    for row in connection.execute(query).all():
        whole = row.provider == WHOLE_APPLICATION
        lanes = _of_pair(connection, row.application, row.provider)
        scope_ = "application" if whole else "provider"
        group = Group(row.application, None if whole else row.provider, row.held_rule, scope_, GrantState.HELD)
        yield group, Member(lanes[:LANES_MOST], row.held_since, row.held_until, more=len(lanes) > LANES_MOST)


def _of_pair(connection: Connection, application: str, provider: str) -> Sequence[UUID]:
    """Lanes of a provider of an application, or of all of it, that have work; at most one more than `LANES_MOST`."""
    query = select(_lane.id).where(_lane.application == application, _lane.turn.is_(None), _lane.next_at.is_not(None))
    if provider != WHOLE_APPLICATION:
        query = query.where(_lane.provider == provider)
    return connection.execute(query.limit(LANES_MOST + 1)).scalars().all()


def _waiting(connection: Connection, lanes: set[UUID], now: Micros) -> dict[UUID, Waiting]:
    """The waiting jobs of these lanes, by lane; at most `JOBS_MOST` in all, spread evenly over parts of the lanes."""
    job = schema.job.c
    found: dict[UUID, Waiting] = {}
    parts = list(chunks(sorted(lanes)))
    for part in parts:
        most = JOBS_MOST // len(parts)
        some = (
            select(job.lane_id, job.due_at, job.resume_at)
            .where(one_of(connection, job.lane_id, part), job.state == literal(State.QUEUED))
            .limit(most + 1)
            .subquery()
        )
        due = func.min(some.c.due_at).filter(some.c.due_at <= now, some.c.resume_at.is_(None))
        rows = connection.execute(
            select(some.c.lane_id, func.count().label("number"), due.label("oldest")).group_by(some.c.lane_id)
        ).all()
        more = sum(row.number for row in rows) > most
        found |= {lane: Waiting(more=True) for lane in part if more}
        found |= {row.lane_id: Waiting(int(row.number), more, row.oldest) for row in rows}
    return found


def _group(group: Group, members: Sequence[Member], waiting: dict[UUID, Waiting]) -> HeldGroup:
    jobs = sum((waiting.get(lane, Waiting()) for member in members for lane in member.lanes), Waiting())
    since = min((member.since for member in members if member.since is not None), default=None)
    ends = [member.until for member in members if member.until is not None]
    return HeldGroup(
        *group,
        grants=sum(len(member.lanes) for member in members),
        more_grants=any(member.more for member in members),
        waiting=jobs.number,
        more_waiting=jobs.more,
        oldest=_moment(jobs.oldest),
        since=_moment(since),
        first_back=_moment(min(ends, default=None)),
        last_back=_moment(max(ends, default=None)),
    )


def _moment(at: Micros | None) -> datetime | None:
    return None if at is None else moment(min(at, _LATEST))
