"""Finds and holds grants with too high a bounce rate within an hour, because providers punish exactly that.

Counted is the mail that the API accepted within the hour, and since the last such hold of its grant began or was
released: the same bounces never hold a grant twice. Nothing is counted per send; the two queries read what is stored:

    bounced  ──▶ candidates: lanes with more bounced mails than the least number of sends allows
    accepted ──▶ all mail of the candidates since then, with its share that bounced
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, func, select

from sendq.clock import SECOND, Micros
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import one_of
from sendq.ledger.dispatching.lanes import lock_changes, write_changes
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import BOUNCE_RATE
from sendq.rules.states import State

WINDOW: Micros = 3600 * SECOND


class Bounced(NamedTuple):
    """A grant's mail within the hour: how many were accepted, and how many of these bounced for some recipient."""

    lane_id: UUID
    application: str
    grant_id: str
    accepted: int
    bounced: int


def find_bounced(connection: Connection, *, rate: float, least: int, now: Micros) -> list[Bounced]:
    """The grants with a bounce rate above ``rate`` (0 to 1) and at least ``least`` accepted mails."""
    since = now - WINDOW
    candidates = _candidates(connection, more_than=rate * least, since=since)
    if not candidates:
        return []
    job, lane, status = schema.job.c, schema.lane, schema.delivery_status
    event = schema.event.c
    last = (
        select(event.application, event.grant_id, func.max(event.at).label("at"))
        .where(event.at >= since, event.rule == BOUNCE_RATE, event.kind.in_(["hold", "release"]))
        .group_by(event.application, event.grant_id)
        .subquery()
    )
    bounced = func.count(status.c.job_id)
    rows = connection.execute(
        select(job.lane_id, lane.c.application, lane.c.grant_id, func.count().label("accepted"), bounced)
        .join(lane, lane.c.id == job.lane_id)
        .join(last, and_(last.c.application == lane.c.application, last.c.grant_id == lane.c.grant_id), isouter=True)
        .join(status, and_(status.c.job_id == job.id, _has_bounced()), isouter=True)
        .where(
            *_accepted(since),
            job.finished_at >= func.coalesce(last.c.at, since),
            one_of(connection, job.lane_id, candidates),
            ~lane.c.gone,
        )
        .group_by(job.lane_id, lane.c.application, lane.c.grant_id)
        .having(func.count() >= least, bounced > rate * func.count())
        .order_by(job.lane_id)
    )
    return [Bounced(*row) for row in rows]


def hold_bounced(connection: Connection, found: Sequence[Bounced], *, until: Micros, now: Micros) -> list[Bounced]:
    """Hold these grants until ``until``; returns those that were not held for as long already."""
    of_lane = {one.lane_id: one for one in found}
    changes = [
        change
        for change in lock_changes(connection, of_lane).values()
        if (change.lane.held_until or 0) < (now if change.lane.held_rule == BOUNCE_RATE else until)
    ]
    for change in changes:
        change.hold_until(until, since=now, rule=BOUNCE_RATE, by="policy")
        change.restart()
        if change.lane.is_offered:
            change.close_turn()
    write_changes(connection, changes, now=now)
    held = [of_lane[change.lane.id] for change in changes]
    happened = [
        events.event("hold", at=now, by="policy", application=change.lane.application, provider=change.lane.provider,
                     grant_id=change.lane.grant_id, rule=BOUNCE_RATE,
                     reason=f"{one.bounced:,} of {one.accepted:,} mails bounced within an hour")
        for change, one in zip(changes, held, strict=True)
    ]  # fmt: skip
    events.append_all(connection, happened)
    return held


def _candidates(connection: Connection, *, more_than: float, since: Micros) -> list[UUID]:
    job, status = schema.job.c, schema.delivery_status
    return list(
        connection.execute(
            select(job.lane_id)
            .join(status, and_(status.c.job_id == job.id, _has_bounced(), status.c.noted_at >= since))
            .where(*_accepted(since))
            .group_by(job.lane_id)
            .having(func.count() > more_than)
        ).scalars()
    )


def _has_bounced() -> ColumnElement[bool]:
    return schema.delivery_status.c.delivery == Delivery.BOUNCED.value


def _accepted(since: Micros) -> tuple[ColumnElement[bool], ...]:
    job = schema.job.c
    return job.state == State.SENT.value, job.finished_at >= since, job.operation == "send"
