"""Record: outcomes of many turns in one transaction.

Facts are never fenced. An attempt, a "sent", a hold is recorded however late it comes: a worker that was taken for
dead and was not still tells the truth about what went out. Only the return of a job to the queue, the lane's slot and
its pace need the turn to be open still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, select, update

from sendq.clock import Micros
from sendq.facts.jobs import JOB_CHANGES, LockedJob
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import End, Group, Recorded
from sendq.ledger import events
from sendq.ledger.attempts import insert_new_attempts
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lanes import CLOSED_TURN, NEVER, lock, lock_pairs, lower_in, prove, settle
from sendq.ledger.dispatching.turns import begin
from sendq.ledger.enqueue import NO_VAULT, notify
from sendq.ledger.grants import pause_after
from sendq.ledger.jobs import lock_jobs, store_changes
from sendq.ledger.walks import record_page
from sendq.rules.job_change import after_outcome, sent_with_another_key
from sendq.rules.pace import BEHAVES_AFTER, relaxed, stretched
from sendq.rules.states import MOVES, Event, State
from sendq.vault import Vault


def record(connection: Connection, group: Group, *, now: Micros, vault: Vault = NO_VAULT) -> Recorded:
    """Write a group. Repeating one whose commit may or may not have happened changes nothing the second time.

    ``vault`` seals the requests that it makes (the next pages of walks).
    """
    recorded = Recorded()
    lanes = lock(connection, group.lane_ids())
    wide = [lanes[one.lane_id].application for one in group.outcomes if one.hold and one.hold.above_grant]
    if wide or group.proven:
        lock_pairs(connection, [*wide, *(application for application, _ in group.proven)])
    changes: dict[UUID, dict[str, Any]] = {}
    _apply_outcomes(connection, group.outcomes, lanes, changes, recorded, now=now, vault=vault)
    open_turns = {lane_id for lane_id, row in lanes.items() if row.turn == "claimed"}
    recorded.begun = begin(
        connection,
        [
            (item.job_id, item.fence)
            for item in group.begins
            if item.lane_id in open_turns
            and lanes[item.lane_id].fence == item.fence
            # Held since the turn began, by hand or by what a late worker told: inside a hold nothing is asked.
            and (lanes[item.lane_id].held_until or 0) <= now
        ],
        now=now,
    )
    for shrink in group.shrinks:
        if shrink.lane_id in open_turns and lanes[shrink.lane_id].fence == shrink.fence:
            changes.setdefault(shrink.lane_id, {})["turn_slots"] = shrink.slots
    for end in group.ends:
        if end.lane_id in open_turns and lanes[end.lane_id].fence == end.fence:
            _end(lanes[end.lane_id], end, changes.setdefault(end.lane_id, {}), now=now)
    for (application, provider), begun_at in sorted(group.proven.items()):
        ramp = prove(connection, application, provider, begun_at=begun_at, now=now)
        recorded.ramps[application, provider] = ramp
    notify_at = settle(connection, lanes, changes, now=now)
    if notify_at != NEVER:
        notify(connection, at=notify_at)
    return recorded


def _end(lane: Lane, end: End, change: dict[str, Any], *, now: Micros) -> None:
    ramp = min(end.ramp, lane.width)
    if lane.held_since is not None and lane.held_since >= (lane.turn_at or 0):
        ramp = min(ramp, lane.ramp)
    change.update(CLOSED_TURN, ready_at=end.ready_at, served_at=now)
    if end.used is not None:
        change["used"] = end.used
    if lane.stretch and end.successes:
        change["stretch"] = relaxed(change.get("stretch", lane.stretch), end.successes)
    # A hold that fell meanwhile has reset the ramp; a turn that began before it must not undo that, whether the hold
    # is in this group or was recorded before.
    change.setdefault("ramp", ramp)


def _apply_outcomes(
    connection: Connection,
    outcomes: Sequence[Outcome],
    lanes: Mapping[UUID, Lane],
    changes: dict[UUID, dict[str, Any]],
    recorded: Recorded,
    *,
    now: Micros,
    vault: Vault,
) -> None:
    attempts = [outcome.attempt for outcome in outcomes if outcome.attempt is not None]
    fresh = insert_new_attempts(connection, attempts)
    news = [outcome for outcome in outcomes if outcome.attempt is None or outcome.id in fresh]
    before = lock_jobs(connection, [outcome.job_id for outcome in news])
    jobs: dict[UUID, LockedJob] = dict(before)
    ended: dict[UUID, LockedJob] = {}
    counts: Counter[tuple[UUID, str]] = Counter()
    going_on: set[UUID] = set()
    happened: list[dict[str, Any]] = []
    for outcome in news:
        job = jobs.get(outcome.job_id)
        if job is None:
            continue  # pruned, or erased, while it was on the wire
        in_turn = job.state == State.SENDING and job.turn == outcome.fence
        if not in_turn and outcome.attempt is not None:  # without a call there is no fact
            recorded.late.append(outcome)
            if job.state == State.SENT and sent_with_another_key(job, outcome):
                recorded.sent_twice.append(outcome)
        if in_turn or (outcome.event is Event.ACCEPT and Event.ACCEPT in MOVES.get(State(job.state), {})):
            # Two turns may speak of one job in one group: the second meets it as the first has left it.
            after = jobs[job.id] = ended[job.id] = job._replace(**after_outcome(job, outcome, now=now))
            if after.state == State.QUEUED:
                lower_in(changes, lanes[outcome.lane_id], job.priority, after.next_at)
            following = None
            if outcome.page is not None and job.batch_id is not None and after.state == State.SENT:
                following = record_page(connection, job.batch_id, outcome.page, counts, now=now, vault=vault)
            if following is not None:
                lower_in(changes, lanes[outcome.lane_id], following["priority"], following["next_at"])
                going_on.add(job.id)
        if _apply_to_lane(connection, outcome, lanes, changes, happened, now=now):
            recorded.incidents.append(outcome)
    events.append_all(connection, happened)
    changed = [(before[job_id], dict(zip(JOB_CHANGES, after, strict=False))) for job_id, after in ended.items()]
    store_changes(connection, changed, now=now, counts=counts, going_on=going_on)
    known = [outcome for outcome in outcomes if outcome.attempt is not None and outcome.id not in fresh]
    if known:
        _tell_of_first_try(connection, known, lanes, recorded)


def _tell_of_first_try(
    connection: Connection, known: Sequence[Outcome], lanes: Mapping[UUID, Lane], recorded: Recorded
) -> None:
    """The group is repeated: what its first try began was told to nobody, for its answer was lost."""
    jobs = lock_jobs(connection, [outcome.job_id for outcome in known])
    for outcome in known:
        job = jobs.get(outcome.job_id)
        if job is not None and job.state == State.SENT and sent_with_another_key(job, outcome):
            recorded.late.append(outcome)
            recorded.sent_twice.append(outcome)
        if outcome.hold is not None and outcome.hold.above_grant:
            lane, pair = lanes[outcome.lane_id], schema.pair.c
            provider = lane.provider if outcome.hold.scope == "provider" else "*"
            began = select(pair.streak).where(
                pair.application == lane.application,
                pair.provider == provider,
                pair.held_until == outcome.hold.until,
                pair.held_rule == outcome.hold.rule,
            )
            if connection.execute(began).scalar() == 1:
                recorded.incidents.append(outcome)


def _apply_to_lane(
    connection: Connection,
    outcome: Outcome,
    lanes: Mapping[UUID, Lane],
    changes: dict[UUID, dict[str, Any]],
    happened: list[dict[str, Any]],
    *,
    now: Micros,
) -> bool:
    """What an outcome says of its lane, or of more than its lane; whether it began an incident above the grant."""
    lane = lanes[outcome.lane_id]
    if outcome.event is Event.ACCEPT and (lane.streak or lane.refused):
        changes.setdefault(lane.id, {}).update(streak=0, refused=0, checks=0, announced_at=None)
    if outcome.width is not None:
        width = max(1, min(lane.width, outcome.width))
        if width < changes.get(lane.id, {}).get("width", lane.width):
            happened.append(_event("narrowed", outcome, lane, now=now, reason=f"to {width} at once"))
        changes.setdefault(lane.id, {}).update(width=width, ramp=min(lane.ramp, width))
    if outcome.spacing is not None:
        spaced = {"spacing": max(lane.spacing, outcome.spacing), "spacing_until": now + BEHAVES_AFTER}
        changes.setdefault(lane.id, {}).update(spaced)
    if outcome.throttled and (lane.held_since is None or outcome.begun_at >= lane.held_since):
        # One step for each incident: what was on the wire when the hold fell does not count again.
        changes.setdefault(lane.id, {})["stretch"] = stretched(lane.stretch)
    return outcome.hold is not None and _apply_hold(connection, outcome, lanes, changes, happened, now=now)


def _apply_hold(
    connection: Connection,
    outcome: Outcome,
    lanes: Mapping[UUID, Lane],
    changes: dict[UUID, dict[str, Any]],
    happened: list[dict[str, Any]],
    *,
    now: Micros,
) -> bool:
    """One incident, one step: what was on the wire when a hold fell does not lengthen it, and nothing shortens it.

    Whether it is the first step of an incident above the grant, with a success since the last.
    """
    hold, lane = outcome.hold, lanes[outcome.lane_id]
    assert hold is not None
    if hold.scope == "grant":
        change = changes.setdefault(lane.id, {})
        held_since = change.get("held_since", lane.held_since)
        if hold.until is None:
            closed = change.get("closed_at", lane.closed_at) is not None
            known = closed and (hold.suspected or not change.get("suspected", lane.suspected))
            if not known and (lane.opened_at is None or outcome.begun_at >= lane.opened_at):
                if hold.gone or not closed:
                    happened.append(_event("grant_gone" if hold.gone else "closed", outcome, lane, now=now))
                change.update(closed_at=now, closed_rule=hold.rule, suspected=hold.suspected, gone=hold.gone)
                # As many questions as there were since the last success: they come ever more rarely.
                change.update(check_at=now if hold.suspected else now + pause_after(lane.checks))
        elif (held_since is None or outcome.begun_at >= held_since) and hold.until >= (lane.held_until or 0):
            change.update(held_until=hold.until, held_since=now, held_rule=hold.rule, held_by=hold.by)
            change.update(ramp=1, streak=lane.streak + 1)
            happened.append(_event("hold", outcome, lane, now=now))
        return False
    provider = lane.provider if hold.scope == "provider" else "*"
    insert_new(connection, schema.pair, [{"application": lane.application, "provider": provider}], returning="provider")
    table = schema.pair
    changed = connection.execute(
        update(table)
        .where(table.c.application == lane.application, table.c.provider == provider)
        .where(table.c.held_since.is_(None) | (table.c.held_since <= outcome.begun_at))
        .where(table.c.held_until.is_(None) | (table.c.held_until <= (hold.until or 0)))
        .values(
            held_until=hold.until,
            held_since=now,
            held_rule=hold.rule,
            held_by=hold.by,
            streak=table.c.streak + 1,
        )
        .returning(table.c.streak)
    ).scalar()
    if changed is None:
        return False
    happened.append(_event("hold", outcome, lane, now=now))
    # Afterwards one call, then 1, 2, 4 …
    held = update(table).where(table.c.application == lane.application)
    connection.execute((held if provider == "*" else held.where(table.c.provider == provider)).values(ramp=1))
    return bool(changed == 1)


def _event(kind: str, outcome: Outcome, lane: Lane, *, now: Micros, reason: str | None = None) -> dict[str, Any]:
    """That an answer changed how its lane, or what stands above it, is served: kept once for each incident."""
    hold = outcome.hold
    scope = "grant" if hold is None or kind == "narrowed" else hold.scope
    return events.event(
        kind,
        at=now,
        by="policy" if hold is None else hold.by,
        application=lane.application,
        provider=None if scope == "application" else lane.provider,
        grant_id=lane.grant_id if scope == "grant" else None,
        job_id=outcome.job_id,
        rule=outcome.rule if hold is None else hold.rule,
        reason=reason,
    )
