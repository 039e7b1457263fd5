"""What is held or closed, grouped by rule and provider, with the jobs that wait behind it.

Every query uses an index and is bounded: `LANES_MOST` lanes are read, through the indexes of those that are held or
closed, and `JOBS_MOST` jobs, through the index of waiting ones. Where a bound is reached, the view says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple
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


@dataclass(frozen=True, slots=True)
class Counted:
    """The waiting jobs of lanes: by lane their number and when the oldest of those that are due was due, and the lanes
    whose jobs are not all counted.
    """

    by_lane: dict[UUID, tuple[int, Micros | None]]
    more: set[UUID]

    def of(self, lanes: Sequence[UUID], *, more: bool = False) -> Waiting:
        """Of some of them together."""
        found = [one for lane in lanes if (one := self.by_lane.get(lane)) is not None]
        return Waiting(
            sum(number for number, _ in found),
            more or not self.more.isdisjoint(lanes),
            min((at for _, at in found if at is not None), default=None),
        )


class Group(NamedTuple):
    """What a group has in common."""

    application: str
    provider: str | None
    rule: str | None
    scope: str
    state: GrantState


@dataclass(slots=True)
class Members:
    """The lanes of a group, and the first and last times of their holds."""

    lanes: list[UUID] = field(default_factory=list)
    more: bool = False
    since: Micros | None = None
    first: Micros | None = None
    last: Micros | None = None

    def add(self, lanes: Sequence[UUID], since: Micros | None, until: Micros | None) -> None:
        """One more hold."""
        self.lanes += lanes
        if since is not None and (self.since is None or since < self.since):
            self.since = since
        if until is not None:
            self.first = until if self.first is None or until < self.first else self.first
            self.last = until if self.last is None or until > self.last else self.last


def held(
    connection: Connection, *, scope: LaneFilter = ANYWHERE, rule: str | None = None, now: Micros
) -> tuple[HeldGroup, ...]:
    """The groups in which grants are held or closed, those with the most waiting jobs first."""
    members: defaultdict[Group, Members] = defaultdict(Members)
    rows = [*_lanes(connection, _closed(rule), scope), *_lanes(connection, _held(rule, now=now), scope)]
    for lane, application, provider, closed_at, closed_rule, held_until, held_since, held_rule in rows[:LANES_MOST]:
        if closed_at is not None:
            group = Group(application, provider, closed_rule, "grant", GrantState.CLOSED)
            members[group].add([lane], closed_at, None)
        else:
            group = Group(application, provider, held_rule, "grant", GrantState.HELD)
            members[group].add([lane], held_since, held_until)
    _add_pairs(connection, members, scope, rule, now=now)
    waiting = _waiting(connection, {lane for of in members.values() for lane in of.lanes}, now)
    groups = [_group(group, of, waiting) for group, of in members.items()]
    if len(rows) > LANES_MOST:
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
    some = sorted(all_of_them)[:LANES_MOST]
    return _waiting(connection, set(some), 0).of(some, more=more)


def _closed(rule: str | None) -> list[ColumnElement[bool]]:
    closed = [_lane.closed_at.is_not(None), ~_lane.gone]
    return closed if rule is None else [*closed, _lane.closed_rule == rule]


def _held(rule: str | None, *, now: Micros) -> list[ColumnElement[bool]]:
    held = [_lane.held_until > now, _lane.closed_at.is_(None)]
    return held if rule is None else [*held, _lane.held_rule == rule]


def _lanes(connection: Connection, state: list[ColumnElement[bool]], scope: LaneFilter) -> Sequence[Any]:
    names = (_lane.id, _lane.application, _lane.provider, _lane.closed_at, _lane.closed_rule, _lane.held_until,
             _lane.held_since, _lane.held_rule)  # fmt: skip
    return connection.execute(select(*names).where(*state, *scope.conditions(_lane.id)).limit(LANES_MOST + 1)).all()


def _add_pairs(
    connection: Connection, members: defaultdict[Group, Members], scope: LaneFilter, rule: str | None, *, now: Micros
) -> None:
    """Add the holds of providers and applications, with the lanes that have work."""
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
        members[group].add(lanes[:LANES_MOST], row.held_since, row.held_until)
        members[group].more |= len(lanes) > LANES_MOST


def _of_pair(connection: Connection, application: str, provider: str) -> Sequence[UUID]:
    """Lanes of a provider of an application, or of all of it, that have work; at most one more than `LANES_MOST`."""
    query = select(_lane.id).where(_lane.application == application, _lane.turn.is_(None), _lane.next_at.is_not(None))
    if provider != WHOLE_APPLICATION:
        query = query.where(_lane.provider == provider)
    return connection.execute(query.limit(LANES_MOST + 1)).scalars().all()


def _waiting(connection: Connection, lanes: set[UUID], now: Micros) -> Counted:
    """The waiting jobs of these lanes, by lane; at most `JOBS_MOST` in all, spread evenly over parts of the lanes."""
    job = schema.job.c
    counted = Counted({}, set())
    parts = list(chunks(sorted(lanes, key=attrgetter("int"))))
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
        counted.by_lane.update((lane, (number, oldest)) for lane, number, oldest in rows)
        if sum(number for _, number, _ in rows) > most:
            counted.more.update(part)
    return counted


def _group(group: Group, members: Members, waiting: Counted) -> HeldGroup:
    jobs = waiting.of(members.lanes)
    return HeldGroup(
        *group,
        grants=len(members.lanes),
        more_grants=members.more,
        waiting=jobs.number,
        more_waiting=jobs.more,
        oldest=_moment(jobs.oldest),
        since=_moment(members.since),
        first_back=_moment(members.first),
        last_back=_moment(members.last),
    )


def _moment(at: Micros | None) -> datetime | None:
    return None if at is None else moment(min(at, _LATEST))
