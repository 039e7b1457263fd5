"""The ledger in bounded numbers: see `sendq.views.Overview`. Every query is bounded."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from sqlalchemy import Connection, func, select

from sendq.clock import SECOND, Micros, moment, seconds
from sendq.ids import first_id
from sendq.ledger.db import schema
from sendq.ledger.deliveries import backlog
from sendq.ledger.dispatching import lineage
from sendq.ledger.reading import gauges
from sendq.ledger.reading.budgets import budgets
from sendq.ledger.reading.holds import tag_holds, wide_holds
from sendq.ledger.reading.status import broker_view, shut, workers
from sendq.ledger.reading.unapproved import approvals
from sendq.rules.pace import pacer_of
from sendq.rules.states import State
from sendq.views import Overview, PaceView
from sendq.views.overview import COUNT_MOST
from sendq.views.status import CALLS_S


def overview(connection: Connection, *, now: Micros) -> Overview:
    """What waits and what moves."""
    gauges.limit_time(connection)
    standing = lineage.read(connection)
    turn_wait_s, oldest_s = gauges.waits(connection, now=now)
    lanes: Counter[str] = Counter()
    for (state, _), number in gauges.lanes_by_state(connection, now=now).items():
        lanes[state] += number
    jobs = {state: gauges.count_waiting(connection, state) for state in (State.QUEUED, State.SENDING)}
    jobs |= {state: gauges.count_most(connection, state) for state in (State.IN_DOUBT, State.DEAD)}
    return Overview(
        at=moment(now),
        shut=shut(standing),
        broker=broker_view(connection),
        jobs=jobs,
        enqueued=_enqueued_since(connection, now - seconds(CALLS_S)),
        calls=gauges.calls_since(connection, now - seconds(CALLS_S)),
        oldest_s=oldest_s,
        turn_wait_s=turn_wait_s,
        lanes=dict(lanes),
        holds=(*wide_holds(connection, now=now), *tag_holds(connection, now=now)),
        workers=tuple(workers(connection, now=now)),
        deliveries=backlog(connection, now=now),
        clock_behind_s=max(0, standing.highest_at - now) / SECOND,
        approvals=approvals(connection),
        budgets=budgets(connection, now=now),
    )


def _enqueued_since(connection: Connection, at: Micros) -> int:
    """Ids of jobs are in the order of time, so this reads only the end of their index."""
    job = schema.job.c
    some = select(job.id).where(job.id >= first_id(at)).limit(COUNT_MOST).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def pace(connection: Connection, lane_id: UUID, *, now: Micros) -> PaceView | None:
    """How fast the calls of a lane may go; None: the dispatcher has not seen it."""
    lane = connection.execute(select(schema.lane).where(schema.lane.c.id == lane_id)).first()
    if lane is None:
        return None
    pacer = pacer_of(lane, now=now)
    return PaceView(
        at_once=min(lane.ramp, lane.width),
        width=lane.width,
        limits=tuple((limit.name, limit.units, limit.window / SECOND) for limit in pacer.pace.limits),
        daily=pacer.pace.daily,
        apart_s=lane.stretch / SECOND,
        modify_apart_s=lane.spacing / SECOND if lane.spacing_until > now else 0.0,
        next_at=moment(lane.ready_at) if lane.ready_at > now else None,
    )
