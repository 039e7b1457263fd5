"""Holds: those over a lane (its own, its provider's and its application's), and all that are in force."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, func, or_, select

from sendq.clock import Micros, moment
from sendq.facts.lanes import WHOLE_APPLICATION, Lane
from sendq.ledger.db import schema
from sendq.rules.rule_ids import BY_HAND
from sendq.rules.tags import each_tag
from sendq.views import HoldView


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as it is stored; it may be over.

    ``provider`` is None when it is on the whole application, ``grant_id`` when it is on more than one grant.
    """

    application: str
    provider: str | None
    grant_id: str | None
    held_until: Micros
    held_since: Micros | None
    held_rule: str | None
    held_by: str | None
    tag: str | None = None

    @property
    def scope(self) -> str:
        """``application``, ``provider``, ``grant`` or ``tag``."""
        if self.tag is not None:
            return "tag"
        return "grant" if self.grant_id is not None else "provider" if self.provider is not None else "application"


def holds_over(connection: Connection, lane_id: UUID) -> list[StoredHold]:
    """The stored holds over a lane, the widest first; none for a lane that the dispatcher has not seen."""
    lane, pair = schema.lane.c, schema.pair.c
    names = ("held_until", "held_since", "held_rule", "held_by")
    own = connection.execute(
        select(lane.application, lane.provider, lane.grant_id, *(lane[name] for name in names)).where(
            lane.id == lane_id
        )
    ).first()
    if own is None:
        return []
    wide = connection.execute(
        select(pair.application, pair.provider, *(pair[name] for name in names))
        .where(
            pair.application == own.application,
            pair.provider.in_([own.provider, WHOLE_APPLICATION]),
            pair.held_until.is_not(None),
        )
        .order_by(pair.provider != WHOLE_APPLICATION)
    )
    found = [
        StoredHold(
            row.application, None if row.provider == WHOLE_APPLICATION else row.provider, None,
            row.held_until, row.held_since, row.held_rule, row.held_by,
        )
        for row in wide
    ]  # fmt: skip
    return found if own.held_until is None else [*found, StoredHold(*own)]


def holds_of_tags(connection: Connection, lane_id: UUID, tags: str | None) -> list[StoredHold]:
    """The stored holds of these tags (as a job's row has them) in the application of a lane; they may be over."""
    names = each_tag(tags)
    table, lane = schema.tag_hold.c, schema.lane.c
    if not names:
        return []
    held = (
        select(schema.tag_hold)
        .join(schema.lane, lane.application == table.application)
        .where(lane.id == lane_id, table.tag.in_(names))
    )
    return [
        StoredHold(row.application, None, None, row.held_until, row.held_since, BY_HAND, row.held_by, row.tag)
        for row in connection.execute(held.order_by(table.tag))
    ]


def tag_holds(connection: Connection, *, now: Micros) -> list[HoldView]:
    """The holds of tags that are in force."""
    table = schema.tag_hold.c
    rows = connection.execute(
        select(schema.tag_hold).where(table.held_until > now).order_by(table.application, table.tag)
    )
    return [
        HoldView(
            row.application, None, None, moment(row.held_since), moment(row.held_until), BY_HAND, row.held_by, row.tag
        )
        for row in rows
    ]


def holds_in_force(connection: Connection, lane: Lane, *, now: Micros) -> list[HoldView]:
    """The holds in force over a lane, the widest first, and (without ``until``) that it is closed."""
    held = [
        HoldView(
            hold.application, hold.provider, hold.grant_id, _moment(hold.held_since), moment(hold.held_until),
            hold.held_rule, hold.held_by,
        )
        for hold in holds_over(connection, lane.id)
        if hold.held_until > now
    ]  # fmt: skip
    if lane.closed_at is not None:
        since, rule = moment(lane.closed_at), lane.closed_rule
        held.append(HoldView(lane.application, lane.provider, lane.grant_id, since, None, rule, "policy"))
    return held


def hold_ends(connection: Connection, lane_id: UUID) -> Micros:
    """When the last of the holds over a lane ends; in the past if there is none."""
    return max((hold.held_until for hold in holds_over(connection, lane_id)), default=0)


def wide_holds(connection: Connection, *, now: Micros, applications: Collection[str] | None = None) -> list[HoldView]:
    """The holds in force of whole applications and of their providers, each application's own before its providers'."""
    table = schema.pair.c
    query = (
        select(schema.pair)
        .where(table.held_until > now)
        .order_by(table.application, table.provider != WHOLE_APPLICATION, table.provider)
    )
    if applications is not None:
        query = query.where(table.application.in_(sorted(applications)))
    return [
        HoldView(
            row.application, None if row.provider == WHOLE_APPLICATION else row.provider, None,
            _moment(row.held_since), moment(row.held_until), row.held_rule, row.held_by,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


def lane_holds(connection: Connection, *, now: Micros, limit: int) -> list[HoldView]:
    """Up to ``limit`` grants that are held or closed (``until`` None), the latest first."""
    lane = schema.lane.c
    since = func.coalesce(lane.closed_at, lane.held_since)
    rows = connection.execute(
        select(schema.lane)
        .where(or_(lane.closed_at.is_not(None), lane.held_until > now))
        .order_by(since.desc(), lane.id)
        .limit(limit)
    )
    return [
        HoldView(
            row.application, row.provider, row.grant_id, moment(row.closed_at), None, row.closed_rule, "policy"
        )
        if row.closed_at is not None
        else HoldView(
            row.application, row.provider, row.grant_id,
            _moment(row.held_since), moment(row.held_until), row.held_rule, row.held_by,
        )
        for row in rows
    ]  # fmt: skip


def _moment(at: Micros | None) -> datetime | None:
    return None if at is None else moment(at)
