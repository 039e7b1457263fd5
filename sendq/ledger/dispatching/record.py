"""Record: outcomes of many turns in one transaction.

Facts are never fenced. An attempt, a "sent", a hold is recorded however late it comes: a worker that was taken for
dead and was not still tells the truth about what went out. Only the return of a job to the queue, the lane's slot and
its pace need the turn to be open still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, select, update

from sendq.clock import Micros
from sendq.ledger import events
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import insert_new
from sendq.ledger.dispatching.lanes import CLOSED_TURN, NEVER, lock, lock_pairs, lower_in, prove, settle
from sendq.ledger.dispatching.turns import begin
from sendq.ledger.enqueue import NO_VAULT, notify
from sendq.ledger.grants import pause_after
from sendq.ledger.jobs import JOB_CHANGES, lock_jobs, store_changes, with_changes, withdrawal
from sendq.ledger.walks import Page, record_page
from sendq.rules.pace import BEHAVES_AFTER, relaxed, stretched
from sendq.rules.states import FINAL, MOVES, Event, State
from sendq.vault import Vault


@dataclass(frozen=True, slots=True)
class Hold:
    """Leave a scope alone until a time. ``until`` None closes a lane: a person must sign in again."""

    scope: str  # grant | provider | application
    rule: str
    by: str  # who holds: "policy", or an operator's name
    until: Micros | None
    suspected: bool = False  # closed, but the API is asked about the grant before anybody is bothered
    gone: bool = False  # closed for good: the grant exists no more


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one begun job. ``attempt`` is its row, or None when no call was made after all."""

    id: UUID
    lane_id: UUID
    fence: int
    job_id: UUID
    operation: str
    event: Event
    rule: str
    next_at: Micros
    attempt: Mapping[str, Any] | None = None
    counts: bool = False  # whether it costs the job an attempt
    sent: str = "no"  # no | maybe | partly | yes
    new_generation: bool = False
    message_id: str | None = None
    page: Page | None = None  # what a listing has found
    conflict: bool = False  # the API still worked on an earlier request with this key
    died: bool = False  # the process that it had for itself died of it
    hold: Hold | None = None
    width: int | None = None  # what the lane keeps to from now on; None: as before
    spacing: Micros | None = None  # the least time between two modifications, until it has behaved for a while
    throttled: bool = False  # by a limit that nobody knows: its calls go further apart
    begun_at: Micros = 0
    # For those who are told of it (journal, metrics, events); nothing of this is written.
    application: str = ""
    provider: str = ""
    grant_id: str = ""
    wanted_at: Micros = 0  # when the job could have begun; what lies between is its time in the queue
    attempts: int = 0  # used up before this one


@dataclass(frozen=True, slots=True)
class Begin:
    """A turn wants to make the call for this job next."""

    lane_id: UUID
    fence: int
    job_id: UUID


@dataclass(frozen=True, slots=True)
class End:
    """A turn is over; what it used and learned of the lane's pace.

    ``used`` and ``ready_at`` are the `sendq.rules.pace.Pacer`'s; None leaves what the ledger has.
    """

    lane_id: UUID
    fence: int
    ready_at: Micros
    ramp: int
    used: str | None = None
    successes: int = 0


@dataclass(frozen=True, slots=True)
class Shrink:
    """A turn that begins no more, and waits for slow calls: so many slots are all that it holds from now on."""

    lane_id: UUID
    fence: int
    slots: int


@dataclass(frozen=True, slots=True)
class Group:
    """What is committed together."""

    outcomes: Sequence[Outcome] = ()
    begins: Sequence[Begin] = ()
    ends: Sequence[End] = ()
    shrinks: Sequence[Shrink] = ()
    proven: Mapping[tuple[str, str], Micros] = field(default_factory=dict)  # pairs that work, since a call begun then

    def lane_ids(self) -> set[UUID]:
        """The lanes that it touches."""
        return (
            {item.lane_id for item in self.outcomes}
            | {item.lane_id for item in self.begins}
            | {item.lane_id for item in self.ends}
            | {item.lane_id for item in self.shrinks}
        )


@dataclass(slots=True)
class Recorded:
    """What became of a group: the jobs that may go on the wire, and facts that came too late for their turn."""

    begun: set[UUID] = field(default_factory=set)
    late: list[Outcome] = field(default_factory=list)
    sent_twice: list[Outcome] = field(default_factory=list)
    incidents: list[Outcome] = field(default_factory=list)  # whose holds above a grant began something new
    ramps: dict[tuple[str, str], int | None] = field(default_factory=dict)  # of the pairs that were proven


def record(connection: Connection, group: Group, *, now: Micros, vault: Vault = NO_VAULT) -> Recorded:
    """Write a group. Repeating one whose commit may or may not have happened changes nothing the second time.

    ``vault`` seals the requests that it makes (the next pages of walks).
    """
    recorded = Recorded()
    lanes = lock(connection, group.lane_ids())
    wide = [lanes[one.lane_id].application for one in group.outcomes if one.hold and one.hold.scope != "grant"]
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


def _end(lane: Row[Any], end: End, change: dict[str, Any], *, now: Micros) -> None:
    ramp = min(end.ramp, lane.width)
    if lane.held_since is not None and lane.held_since >= lane.turn_at:
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
    lanes: Mapping[UUID, Row[Any]],
    changes: dict[UUID, dict[str, Any]],
    recorded: Recorded,
    *,
    now: Micros,
    vault: Vault,
) -> None:
    attempts = [outcome.attempt for outcome in outcomes if outcome.attempt is not None]
    fresh = insert_new(connection, schema.attempt, attempts, returning="id")
    news = [outcome for outcome in outcomes if outcome.attempt is None or outcome.id in fresh]
    before = lock_jobs(connection, [outcome.job_id for outcome in news])
    jobs: dict[UUID, Any] = dict(before)
    rows: dict[UUID, dict[str, Any]] = {}
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
            if job.state == State.SENT and _is_of_another_generation(job, outcome):
                recorded.sent_twice.append(outcome)
        if in_turn or (outcome.event is Event.ACCEPT and Event.ACCEPT in MOVES.get(State(job.state), {})):
            row = rows[job.id] = _after(job, outcome, now=now)
            if row["state"] == State.QUEUED:
                lower_in(changes, lanes[outcome.lane_id], job.priority, row["next_at"])
            following = None
            if outcome.page is not None and row["state"] == State.SENT:
                following = record_page(connection, job.batch_id, outcome.page, counts, now=now, vault=vault)
            if following is not None:
                lower_in(changes, lanes[outcome.lane_id], following["priority"], following["next_at"])
                going_on.add(job.id)
            # Two turns may speak of one job in one group: the second meets it as the first has left it.
            if len(before) < len(news):
                jobs[job.id] = with_changes(job, **row)
        if _apply_to_lane(connection, outcome, lanes, changes, happened, now=now):
            recorded.incidents.append(outcome)
    events.append_all(connection, happened)
    changed = [(before[job_id], row) for job_id, row in rows.items()]
    store_changes(connection, changed, now=now, counts=counts, going_on=going_on)
    known = [outcome for outcome in outcomes if outcome.attempt is not None and outcome.id not in fresh]
    if known:
        _tell_of_first_try(connection, known, lanes, recorded)


def _tell_of_first_try(
    connection: Connection, known: Sequence[Outcome], lanes: Mapping[UUID, Row[Any]], recorded: Recorded
) -> None:
    """The group is repeated: what its first try began was told to nobody, for its answer was lost."""
    jobs = lock_jobs(connection, [outcome.job_id for outcome in known])
    for outcome in known:
        job = jobs.get(outcome.job_id)
        if job is not None and job.state == State.SENT and _is_of_another_generation(job, outcome):
            recorded.late.append(outcome)
            recorded.sent_twice.append(outcome)
        if outcome.hold is not None and outcome.hold.scope != "grant":
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


def _is_of_another_generation(job: Any, outcome: Outcome) -> bool:
    """Whether a "sent" is of another key than the one that the job is known to be sent with: two mails, then.

    The same key answered twice is one mail: that is what keys are for.
    """
    if outcome.event is not Event.ACCEPT or outcome.attempt is None:
        return False
    return bool(outcome.attempt["generation"] != job.generation)


def _after(job: Any, outcome: Outcome, *, now: Micros) -> dict[str, Any]:
    """The job's row once ``outcome`` has happened to it."""
    event = outcome.event
    if event is Event.RETURN and job.cancel_at is not None:
        known = outcome.sent == "no" and (job.doubt_at is None or outcome.new_generation)
        event = withdrawal(job.operation, may_have_gone_out=not known)
    before = job._mapping
    row = {name: before[name] for name in JOB_CHANGES}
    row["state"] = MOVES[State(job.state)][event].value
    row["rule"] = outcome.rule
    row["attempts"] = job.attempts + outcome.counts
    row["deaths"] = job.deaths + outcome.died
    row["conflicts"] = job.conflicts + 1 if outcome.conflict else 0
    row["turn"] = row["begun_at"] = None
    row["next_at"] = outcome.next_at
    if outcome.message_id is not None:
        row["message_id"] = outcome.message_id
    if outcome.sent == "maybe":
        row["doubt_at"] = outcome.begun_at
    if outcome.new_generation:
        row["generation"], row["key_at"], row["doubt_at"] = job.generation + 1, None, None
    elif outcome.attempt is None and job.key_at == job.begun_at:
        row["key_at"] = None  # first used by this beginning, and given back before any request: it is unused still
    if outcome.event is Event.ACCEPT and outcome.attempt is not None:
        row["generation"] = outcome.attempt["generation"]  # the one that went out, which may be an older one
    if row["state"] in FINAL:
        row["finished_at"] = now
    return row


def _apply_to_lane(
    connection: Connection,
    outcome: Outcome,
    lanes: Mapping[UUID, Row[Any]],
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
    lanes: Mapping[UUID, Row[Any]],
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


def _event(kind: str, outcome: Outcome, lane: Row[Any], *, now: Micros, reason: str | None = None) -> dict[str, Any]:
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
