"""Grants: whether they are connected, what holds them and until when, and how many of their jobs are waiting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select, and_, case, func, or_, select

from sendq.clock import Micros, micros, moment
from sendq.ids import lane_id
from sendq.ledger.db import schema
from sendq.ledger.reading.budgets import room as room_of
from sendq.ledger.reading.filters import ALWAYS, ANYWHERE, LaneFilter, Period
from sendq.ledger.reading.holds import wide_holds
from sendq.ledger.reading.paging import Place, cursor, literal, place, walk
from sendq.ledger.reading.rows import as_list, columns_of
from sendq.rules.eta import predicted
from sendq.rules.pace import pacer_of, stated_costs
from sendq.rules.states import State
from sendq.rules.windows import next_opening
from sendq.views import GrantState, GrantView, HoldView, Page

# The waiting jobs of a grant are counted up to here; in a list of grants, up to the lower number.
COUNT_MOST = 100_000
LIST_COUNT_MOST = 10_000

_lane = schema.lane.c
_closed = _lane.closed_at.is_not(None)

# When a grant was closed or held, if it is.
_since = func.coalesce(_lane.closed_at, _lane.held_since, 0)

# The rule that did it.
_rule = case((_closed, _lane.closed_rule), else_=_lane.held_rule)


@dataclass(frozen=True, slots=True)
class GrantQuery:
    """Which grants: those that match every given field. ``rule`` and ``period``: by what and when it was held or
    closed; grants that are open have neither.
    """

    scope: LaneFilter = ANYWHERE
    states: Collection[GrantState] = ()
    rule: str | None = None
    period: Period = ALWAYS
    batch_id: UUID | None = None
    text: str | None = None  # a part of its id

    def has(self, state: GrantState) -> bool:
        """Whether grants in this state may match."""
        return not self.states or state in self.states

    def of_lanes(self) -> list[ColumnElement[bool]]:
        """The scope as conditions for rows of the table of lanes."""
        named = [] if self.scope.lane_id is None else [_lane.id == self.scope.lane_id]
        if self.batch_id is not None:
            batch, job = schema.batch.c, schema.job.c
            own = select(batch.lane_id).where(batch.id == self.batch_id)
            several = select(job.lane_id).where(job.batch_id == self.batch_id, own.scalar_subquery().is_(None))
            named.append(or_(_lane.id == own.scalar_subquery(), _lane.id.in_(several)))
        if self.text is not None:
            named.append(_lane.grant_id.contains(self.text, autoescape=True))
        pairs = ((_lane.application, self.scope.application), (_lane.provider, self.scope.provider))
        return [*named, *(column == value for column, value in pairs if value is not None)]


@dataclass(frozen=True, slots=True)
class LaneRow:
    """The stored fields of a lane that its grant's view shows."""

    id: UUID
    grant_id: str
    application: str
    provider: str
    held_until: Micros | None
    held_since: Micros | None
    held_rule: str | None
    held_by: str | None
    closed_at: Micros | None
    closed_rule: str | None
    suspected: bool
    announced_at: Micros | None
    gone: bool
    width: int
    pace: str | None
    used: str | None
    spacing: Micros
    spacing_until: Micros
    stretch: Micros
    time_window: str | None
    warm_up: str | None
    waiting: int


def grants(
    connection: Connection, which: GrantQuery, *, after: str | None = None, limit: int, now: Micros
) -> Page[GrantView]:
    """Grants: those that are closed or held, the latest first, then the open ones. Raises `InvalidArgument`.

    Closed and held ones are found by reading all lanes, of which there are as many as grants.
    """
    at = place("grants", after, int, UUID)
    rows: list[LaneRow] = []
    last: Place | None = None
    if at is None or (at != _OPEN_ONES and at[0] is not None):
        rows, last = _kept(connection, which, at, limit, now)
        wants_open = which.has(GrantState.OPEN) and which.rule is None and which.period == ALWAYS
        if last is None and wants_open:
            at = last = _OPEN_ONES
    if at is not None and at[0] is None and len(rows) < limit:
        more, last = _open(connection, which, at, limit - len(rows), now)
        rows += more
    return Page(tuple(_views(connection, rows, LIST_COUNT_MOST, now)), cursor("grants", last))


def grant(connection: Connection, application: str, grant_id: str, *, now: Micros) -> GrantView:
    """One grant. If the dispatcher has not seen it, only its waiting jobs and its application's hold are known."""
    lane = lane_id(application, grant_id)
    found = as_list(LaneRow, connection.execute(_lanes(COUNT_MOST).where(_lane.id == lane)))
    if found:
        return _views(connection, found, COUNT_MOST, now)[0]
    waiting = int(connection.execute(select(_waiting(lane, COUNT_MOST))).scalar_one())
    holds = wide_holds(connection, now=now, applications=[application])
    return GrantView(
        grant_id=grant_id, application=application, provider=None, known=False, state=GrantState.OPEN,
        since=None, until=None, rule=None, by=None, reason=None, suspected=False, announced_at=None, gone=False,
        holds=tuple(hold for hold in holds if hold.provider is None),
        waiting=min(waiting, COUNT_MOST), more_waiting=waiting > COUNT_MOST,
    )  # fmt: skip


# The place before the open ones, which have no time: they follow in the order of their lanes' ids.
_OPEN_ONES: Place = (None, None)


def _kept(
    connection: Connection, which: GrantQuery, at: Place | None, limit: int, now: Micros
) -> tuple[list[LaneRow], Place | None]:
    """Grants that are closed or held, and where the next page of them begins."""
    within = kept_conditions(which, now=now)
    if within is None:
        return [], None
    query = _lanes(LIST_COUNT_MOST).add_columns(_since)
    rows, last = walk(connection, query, [_since, _lane.id], within=within, after=at, limit=limit)
    return as_list(LaneRow, rows), last


def kept_conditions(which: GrantQuery, *, now: Micros) -> list[ColumnElement[bool]] | None:
    """The conditions for lanes of grants that are closed or held, and match; None: ``which`` wants neither."""
    held = and_(_lane.closed_at.is_(None), _lane.held_until > now)
    # Spelled out for each state, so that their indexes can be used.
    states = [is_in for state, is_in in ((GrantState.CLOSED, _closed), (GrantState.HELD, held)) if which.has(state)]
    if not states:
        return None
    within = [or_(*states), *which.of_lanes(), *which.period.of_times(_since)]
    return within if which.rule is None else [*within, _rule == which.rule]


def ids_of(connection: Connection, which: GrantQuery, *, now: Micros) -> list[UUID]:
    """The lanes of all grants that match and still exist, those that were closed or held for the longest time first."""
    kept = kept_conditions(which, now=now)
    found: list[UUID] = []
    if kept is not None:
        found += connection.execute(select(_lane.id).where(*kept, ~_lane.gone).order_by(_since, _lane.id)).scalars()
    if which.has(GrantState.OPEN) and which.rule is None and which.period == ALWAYS:
        free = [_lane.closed_at.is_(None), or_(_lane.held_until.is_(None), _lane.held_until <= now)]
        found += connection.execute(select(_lane.id).where(*free, *which.of_lanes()).order_by(_lane.id)).scalars()
    return found


def _open(
    connection: Connection, which: GrantQuery, at: Place, limit: int, now: Micros
) -> tuple[list[LaneRow], Place | None]:
    """Grants that are neither closed nor held, and where the next page of them begins."""
    free = [_lane.closed_at.is_(None), or_(_lane.held_until.is_(None), _lane.held_until <= now)]
    after = None if at[1] is None else (at[1],)
    rows, last = walk(
        connection, _lanes(LIST_COUNT_MOST), [_lane.id], filters=[*free, *which.of_lanes()], after=after, limit=limit
    )
    return as_list(LaneRow, rows), None if last is None else (None, *last)


def _lanes(most: int) -> Select[Any]:
    """Lanes, each with the number of its waiting jobs, counted up to ``most`` + 1."""
    return select(*columns_of(LaneRow, schema.lane), _waiting(_lane.id, most).label("waiting"))


def _waiting(lane: Any, most: int) -> ScalarSelect[int]:
    job = schema.job.c
    some = (
        select(job.id)
        .where(job.lane_id == lane, job.state == literal(State.QUEUED))
        .limit(most + 1)
        .correlate(schema.lane)
        .subquery()
    )
    return select(func.count()).select_from(some).scalar_subquery()


def _views(connection: Connection, lanes: Sequence[LaneRow], most: int, now: Micros) -> list[GrantView]:
    applications = {lane.application for lane in lanes}
    wide = wide_holds(connection, now=now, applications=applications)
    rooms = {application: room_of(connection, application, now=now) for application in applications}
    events = _events(connection, lanes)
    return [_view(lane, wide, events.get((lane.application, lane.grant_id, _kept_since(lane))),
                  rooms[lane.application], most, now)
            for lane in lanes]  # fmt: skip


def _view(
    lane: LaneRow, wide: Sequence[HoldView], event: Kept | None, room: int | None, most: int, now: Micros
) -> GrantView:
    closed = lane.closed_at is not None
    held_until = None if lane.held_until is None or lane.held_until <= now else moment(lane.held_until)
    held = held_until is not None and not closed
    since = _kept_since(lane) if closed or held else None
    over = [hold for hold in wide if hold.application == lane.application and hold.provider in (None, lane.provider)]
    if held_until is not None:
        held_since = None if lane.held_since is None else moment(lane.held_since)
        own = (lane.application, lane.provider, lane.grant_id, held_since, held_until, lane.held_rule, lane.held_by)
        over.append(HoldView(*own))
    return GrantView(
        grant_id=lane.grant_id,
        application=lane.application,
        provider=lane.provider,
        known=True,
        state=GrantState.CLOSED if closed else GrantState.HELD if held else GrantState.OPEN,
        since=None if since is None else moment(since),
        until=held_until if held else None,
        rule=lane.closed_rule if closed else lane.held_rule if held else None,
        by=(event.by if event else "policy") if closed else lane.held_by if held else None,
        reason=event.reason if event and (closed or held) else None,
        suspected=closed and lane.suspected,
        announced_at=moment(lane.announced_at) if closed and lane.announced_at is not None else None,
        gone=closed and lane.gone,
        holds=tuple(over),
        waiting=min(lane.waiting, most),
        more_waiting=lane.waiting > most,
        costs=stated_costs(lane.used),
        eta=None if room is not None and lane.waiting > room else _eta(lane, over, most, now),
        daily=None if lane.warm_up is None else pacer_of(lane, now=now).pace.daily,
        window=lane.time_window,
        opens_at=closed_until(lane.time_window, now),
    )


def _eta(lane: LaneRow, over: Sequence[HoldView], most: int, now: Micros) -> datetime | None:
    """About when the last of its waiting jobs starts."""
    if not lane.waiting or lane.closed_at is not None:
        return None
    held_until = max((micros(hold.until) for hold in over if hold.until is not None), default=0)
    ahead = min(lane.waiting, most) - 1
    begins_at = next_opening(lane.time_window, max(now, held_until))
    return moment(predicted(lane, "send", ahead=ahead, now=now, not_before=begins_at, width=lane.width))


def closed_until(window: str | None, now: Micros) -> datetime | None:
    """When a stored window opens; None: it is open, or there is none."""
    opens_at = next_opening(window, now)
    return moment(opens_at) if opens_at > now else None


def _kept_since(lane: LaneRow) -> Micros | None:
    return lane.held_since if lane.closed_at is None else lane.closed_at


@dataclass(frozen=True, slots=True)
class Kept:
    """The event that held or closed a grant."""

    at: Micros
    application: str
    grant_id: str
    by: str
    reason: str | None


def _events(connection: Connection, lanes: Iterable[LaneRow]) -> dict[tuple[str, str, Micros | None], Kept]:
    """The events that held or closed these grants: they have the same time."""
    table = schema.event
    times = {at for at in map(_kept_since, lanes) if at is not None}
    query = select(*columns_of(Kept, table)).where(
        table.c.at.in_(times), table.c.kind.in_(["hold", "closed", "grant_gone"]), table.c.grant_id.is_not(None)
    )
    found = as_list(Kept, connection.execute(query))
    return {(event.application, event.grant_id, event.at): event for event in found}
