"""Record: outcomes of many turns in one transaction.

Facts are never fenced. An attempt, a "sent", a hold is recorded however late it comes: a worker that was wrongly
presumed dead still knows what went out. Only the return of a job to the queue, the lane's slot and its pace require
that the turn is still open.

    lanes, pairs and jobs are locked, in this order
    attempts ─▶ slots and ends ─▶ jobs and their lanes ─▶ begins ─▶ pairs that work ─▶ lanes, with their next turns
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, exists, select

from sendq.clock import Micros
from sendq.facts.jobs import JOB_CHANGES, LockedJob
from sendq.facts.lanes import UNKNOWN, WHOLE_APPLICATION, Lane, Pair
from sendq.facts.outcomes import Attempt, Hold, Outcome, Scope
from sendq.facts.turns import Begin, End, Group, Recorded, Shrink
from sendq.ids import new_id
from sendq.ledger import events, snapshots
from sendq.ledger.attempts import Inserted, insert_new_and_lock, lock_lanes_and_insert_new, replaced_untried
from sendq.ledger.db import schema
from sendq.ledger.db.bulk import Then
from sendq.ledger.delivery_status import apply_known, failed_later
from sendq.ledger.dispatching import pairs
from sendq.ledger.dispatching.budgets import reserve
from sendq.ledger.dispatching.lanes import NEVER, earliest, lock, then_write_changes, write_changes
from sendq.ledger.dispatching.turns import begin
from sendq.ledger.enqueue import NO_VAULT, notify
from sendq.ledger.jobs import store_changes, unchanged
from sendq.ledger.walks import lock_batches, record_page
from sendq.rules.job_change import after_outcome, event_of_end, sent_with_another_key
from sendq.rules.lane_change import LaneChange
from sendq.rules.pace import PROVEN_FOR
from sendq.rules.rule_ids import JOB_REFUSED, KEY_CHECK
from sendq.rules.states import FINAL, MOVES, Event, State
from sendq.vault import Vault


def record(connection: Connection, group: Group, *, now: Micros, vault: Vault = NO_VAULT) -> Recorded:
    """Write a group. It is safe to repeat if it is unknown whether its commit happened.

    ``vault`` seals the requests that it creates (the next pages of walks).
    """
    return _Recording(connection, group, now=now, vault=vault).run()


class _Recording:
    """One group being recorded."""

    def __init__(self, connection: Connection, group: Group, *, now: Micros, vault: Vault) -> None:
        self._connection, self._group, self._now, self._vault = connection, group, now, vault
        self._inserted: Inserted | None = None  # what was locked and written together with the lanes
        self._lanes = {lane_id: LaneChange(lane) for lane_id, lane in self._locked_lanes().items()}
        self._next_at: Micros | None = None  # when one of the lanes wants its next turn, once they are written
        self._pairs: Mapping[tuple[str, str], Pair] = {}
        self._missing: list[Outcome] = []  # of grants that the API does not know, as of now
        self._events: list[dict[str, Any]] = []
        self._jobs: Mapping[UUID, LockedJob] = {}
        self._recorded = Recorded()

    def run(self) -> Recorded:
        self._lock_pairs()
        self._apply_outcomes()
        self._begin_jobs()
        self._prove_pairs()
        self._check_keys()
        if self._next_at is None:
            self._next_at = write_changes(self._connection, self._lanes.values(), now=self._now)
        if self._next_at != NEVER:
            self._recorded.wants_turns = True
            notify(self._connection, at=self._next_at)
        return self._recorded

    def _locked_lanes(self) -> Mapping[UUID, Lane]:
        """Lock the lanes; on PostgreSQL also the jobs, in the same statement, if no pair has to be locked before them.

        That writes the attempts too, as `_apply_outcomes` would.
        """
        lanes, attempts = self._group.lane_ids(), self._attempts()
        pairs_too = self._group.proven or any(one.hold and _concerns_pairs(one.hold) for one in self._group.outcomes)
        if not attempts or pairs_too or self._connection.dialect.name != "postgresql":
            return lock(self._connection, lanes)
        locked, self._inserted = lock_lanes_and_insert_new(self._connection, lanes, attempts, self._job_ids())
        return locked

    def _attempts(self) -> list[Attempt]:
        return [outcome.attempt for outcome in self._group.outcomes if outcome.attempt is not None]

    def _job_ids(self) -> list[UUID]:
        return [one.job_id for items in (self._group.outcomes, self._group.begins) for one in items]

    def _lock_pairs(self) -> None:
        """Lock the pairs that will change; all pairs of an application, because a hold may concern each of them."""
        holds = [
            (self._lane_of(one), one.hold)
            for one in self._group.outcomes
            if one.hold and _concerns_pairs(one.hold) and one.lane_id in self._lanes
        ]
        applications = {lane.application for lane, _ in holds} | {name for name, _ in self._group.proven}
        if applications:
            held = {_pair_of(lane, hold) for lane, hold in holds if hold.above_grant or hold.missing}
            pairs.make_pairs(self._connection, held)
            self._pairs = pairs.lock_pairs(self._connection, applications)

    def _lane_of(self, item: Outcome | Begin | End | Shrink) -> Lane:
        """The lane as it was locked."""
        return self._lanes[item.lane_id].lane

    def _is_open(self, item: Begin | End | Shrink) -> bool:
        """Whether the item's turn is still the lane's open one.

        A restored ledger may not know the lane, and may give a fence again that it gave in the time that it has lost:
        to a turn that another worker claimed.
        """
        change = self._lanes.get(item.lane_id)
        if change is None or not change.lane.is_claimed:
            return False
        return change.lane.fence == item.fence and change.lane.turn_worker == item.worker

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _apply_outcomes(self) -> None:
        """Write the attempts; if one exists already, an earlier try of this group applied its outcome."""
        outcomes = self._group.outcomes
        if self._inserted is None:
            # All jobs are locked in one statement, in order, because a cancel or an erasure locks many too.
            ids = self._job_ids() + [job_id for job_id, _ in self._blamed(outcomes)]
            self._inserted = insert_new_and_lock(self._connection, self._attempts(), ids)
        fresh, locked = self._inserted
        first = [outcome for outcome in outcomes if outcome.attempt is None or outcome.id in fresh]
        jobs = self._jobs = self._apply(first, self._blamed(first), locked)
        repeated = [outcome for outcome in outcomes if outcome.attempt is not None and outcome.id not in fresh]
        if repeated:
            self._report_again(repeated, jobs)

    def _apply(
        self, outcomes: Sequence[Outcome], blamed: Mapping[tuple[UUID, str], Outcome], before: Mapping[UUID, LockedJob]
    ) -> Mapping[UUID, LockedJob]:
        """Apply outcomes to their (locked) jobs, and note their effect on lanes; returns the jobs as they are then."""
        jobs = dict(before)
        # The batches whose walks go on, in the order in which the leader locks them.
        pages = [outcome.batch_id for outcome in outcomes if outcome.page is not None]
        lock_batches(self._connection, {batch_id for batch_id in pages if batch_id is not None})
        counts: Counter[tuple[UUID, str]] = Counter()
        going_on: set[UUID] = set()
        refuted = self._refuted(outcomes, before)
        late: set[UUID] = set()
        for outcome in outcomes:
            job = jobs.get(outcome.job_id)
            if job is None:
                continue  # pruned or erased while the call was on the wire
            in_turn = _is_in_turn(job, outcome)
            if not in_turn:
                self._report_late(job, outcome)
                late.add(outcome.id)
            if outcome.id in refuted:
                pass  # the mail was accepted and then failed
            elif in_turn or (outcome.event is Event.ACCEPT and Event.ACCEPT in MOVES.get(State(job.state), {})):
                # Two turns may have outcomes of one job in one group: the second starts from the first's result.
                after = jobs[job.id] = job._replace(**after_outcome(job, outcome, now=self._now))
                if after.state == State.QUEUED and outcome.lane_id in self._lanes:
                    self._lanes[outcome.lane_id].lower(job.priority, after.next_at)
                if self._go_on_walking(after, outcome, counts):
                    going_on.add(job.id)
            self._apply_to_lane(outcome)
        for (job_id, operation), success in blamed.items():
            if (job := jobs.get(job_id)) is not None and job.operation == operation:
                jobs[job_id] = self._give_up(job, success)
        events.append_all(self._connection, self._events)
        changed = [
            (before[job_id], dict(zip(JOB_CHANGES, job, strict=False)))
            for job_id, job in jobs.items()
            if job is not before[job_id]
        ]
        self._change_turns()
        then = self._lanes_with(changed)
        written = store_changes(self._connection, changed, now=self._now, counts=counts, going_on=going_on, then=then)
        if then is not None:
            self._next_at = earliest(written)
        snapshots.record(self._connection, outcomes, jobs, late=late, vault=self._vault)
        # A report may show that the mail went out; then it must not be sent again, not even a moment later.
        unsent = [job.id for job, after in changed if job.operation == "send" and after["state"] != State.SENT]
        apply_known(self._connection, unsent, now=self._now)
        return jobs

    def _lanes_with(
        self, changed: Sequence[tuple[LockedJob, Mapping[str, Any]]]
    ) -> tuple[Then, Mapping[str, Any]] | None:
        """The write of the lanes, if it can be part of the statement that writes these jobs. As that sees the jobs as
        they were before it, none may enter the queue or leave it, neither these nor others afterwards.
        """
        if not changed or self._group.begins or self._connection.dialect.name != "postgresql":
            return None
        if any(State.QUEUED in (before.state, after["state"]) for before, after in changed):
            return None
        return then_write_changes(self._lanes.values(), now=self._now)

    def _refuted(self, outcomes: Sequence[Outcome], jobs: Mapping[UUID, LockedJob]) -> set[UUID]:
        """Those of these outcomes that tell late of an acceptance which a report has called a failure since."""
        late = {
            (outcome.job_id, outcome.attempt.generation): outcome.id
            for outcome in outcomes
            if outcome.event is Event.ACCEPT and outcome.attempt is not None and outcome.operation == "send"
            and (job := jobs.get(outcome.job_id)) is not None and not _is_in_turn(job, outcome)
        }  # fmt: skip
        return {late[send] for send in failed_later(self._connection, late)}

    def _blamed(self, outcomes: Sequence[Outcome]) -> dict[tuple[UUID, str], Outcome]:
        """The jobs that these outcomes show to be at fault, not their grants: each with another job's success, by the
        operation that succeeded.

        A stored success shows nothing: no provider was asked for it now.
        """
        blamed: dict[tuple[UUID, str], Outcome] = {}
        for outcome in outcomes:
            change = self._lanes.get(outcome.lane_id)
            if outcome.event is not Event.ACCEPT or change is None or outcome.is_replayed:
                continue
            at_fault = change.blamed(begun_at=outcome.begun_at) - {outcome.job_id}
            blamed |= dict.fromkeys(((job_id, outcome.operation) for job_id in at_fault), outcome)
        return blamed

    def _give_up(self, job: LockedJob, success: Outcome) -> LockedJob:
        """End a waiting job that is at fault itself. One that may have gone out is in doubt; others are not changed."""
        if job.state != State.QUEUED:
            return job
        event = event_of_end(job.operation, job.doubt_at)
        state = MOVES[State.QUEUED][event]
        change = self._lanes[success.lane_id]
        change.forget_refusals([job.id])
        lane = change.lane
        if job.operation == "send" and replaced_untried(self._connection, job.id, lane.application, lane.grant_id):
            return job  # another message was refused
        self._recorded.given_up.append(
            Outcome(
                new_id(), lane.id, lane.fence, job.id, job.operation, event, JOB_REFUSED, job.next_at,
                application=lane.application, provider=lane.provider, grant_id=lane.grant_id,
            )
        )  # fmt: skip
        finished_at = self._now if state in FINAL else None
        return job._replace(state=state.value, finished_at=finished_at, rule=JOB_REFUSED)

    def _go_on_walking(self, job: LockedJob, outcome: Outcome, counts: Counter[tuple[UUID, str]]) -> bool:
        """Store what a listing found; returns whether a job was created for the next page."""
        if outcome.page is None or job.state != State.SENT or outcome.batch_id is None:
            return False
        walk = (outcome.batch_id, outcome.lane_id, outcome.page)
        following = record_page(self._connection, *walk, counts, now=self._now, vault=self._vault)
        if following is None:
            return False
        self._lanes[outcome.lane_id].lower(following["priority"], following["next_at"])
        return True

    def _report_late(self, job: LockedJob, outcome: Outcome) -> None:
        """Report a fact that came after its turn ended; without a call there is none."""
        if outcome.attempt is None:
            return
        self._recorded.late.append(outcome)
        if job.state == State.SENT and sent_with_another_key(job, outcome):
            self._recorded.sent_twice.append(outcome)

    def _report_again(self, outcomes: Sequence[Outcome], jobs: Mapping[UUID, LockedJob]) -> None:
        """Report the incidents of a repeated group: the first try did not, because its commit's answer was lost."""
        for outcome in outcomes:
            job = jobs.get(outcome.job_id)
            if job is not None and job.state == State.SENT and sent_with_another_key(job, outcome):
                self._recorded.late.append(outcome)
                self._recorded.sent_twice.append(outcome)
            hold = outcome.hold
            if hold is not None and hold.above_grant and outcome.lane_id in self._lanes:
                application, provider = _pair_of(self._lane_of(outcome), hold)
                if pairs.streak_of(self._connection, application, provider, hold) == 1:
                    self._recorded.incidents.append(outcome)

    # --- lanes, turns and pairs ---------------------------------------------------------------------------------------

    def _apply_to_lane(self, outcome: Outcome) -> None:
        """Apply an outcome to its lane, and to the pair above it. A restored ledger may not know the lane."""
        if outcome.lane_id not in self._lanes:
            return
        if outcome.hold is not None and outcome.hold.identify and self._lane_of(outcome).provider != UNKNOWN:
            # Identified while the call was on the wire.
            outcome = outcome._replace(hold=replace(outcome.hold, scope=Scope.PROVIDER, identify=False))
        for kind, reason in self._lanes[outcome.lane_id].apply(outcome, now=self._now):
            self._note(kind, outcome, reason=reason)
            if kind == "closed" and outcome.hold is not None and outcome.hold.missing:
                self._missing.append(outcome)
        hold = outcome.hold
        if hold is None or not hold.above_grant:
            return
        application, provider = _pair_of(self._lane_of(outcome), hold)
        streak = pairs.hold_for_answer(
            self._connection, application, provider, hold, begun_at=outcome.begun_at, now=self._now
        )
        if streak is None:
            return
        self._note("hold", outcome)
        if streak == 1:  # the first hold since the last success: a new incident
            self._recorded.incidents.append(outcome)

    def _begin_jobs(self) -> None:
        """Begin the jobs that open turns want to begin next, except in lanes that are held by now, or over a budget."""
        if not self._group.begins:
            return
        items = [
            item
            for item in self._group.begins
            if self._is_open(item) and (self._lane_of(item).held_until or 0) <= self._now
        ]
        # One that an earlier try of this group has begun is counted already.
        loaded = {item.job_id: (item.generation, item.content_version) for item in items if item.budgets}
        may_begin = unchanged(self._connection, self._jobs, loaded, now=self._now)
        counted = [(item.job_id, item.budgets) for item in items if item.job_id in may_begin]
        refused = reserve(self._connection, counted, now=self._now) if counted else set()
        wanted = [
            (item.job_id, item.fence, item.generation, item.content_version)
            for item in items
            if item.job_id not in refused
        ]
        self._recorded.begun = begin(self._connection, wanted, now=self._now)

    def _change_turns(self) -> None:
        """Take back slots from open turns, and end those that are over."""
        for shrink in self._group.shrinks:
            if self._is_open(shrink):
                self._lanes[shrink.lane_id].shrink(shrink.slots)
        for end in self._group.ends:
            if self._is_open(end):
                self._lanes[end.lane_id].end(end, now=self._now)

    def _prove_pairs(self) -> None:
        """Record which pairs work, and widen those that have to prove themselves."""
        for (application, provider), begun_at in sorted(self._group.proven.items()):
            ramp = pairs.prove(self._connection, application, provider, begun_at=begun_at, now=self._now)
            self._recorded.ramps[application, provider] = ramp

    def _check_keys(self) -> None:
        """Pause applications whose API key may be that of another application: one of their grants was not found, and
        nothing shows that the key is right, or another grant was not found since the last success.
        """
        for application in {self._lane_of(outcome).application for outcome in self._missing}:
            outcomes = [one for one in self._missing if self._lane_of(one).application == application]
            whole = self._pairs[application, WHOLE_APPLICATION]
            works_at = max((pair.proven_at or 0 for name, pair in self._pairs.items() if name[0] == application))
            if any(name == application for name, _ in self._group.proven):
                works_at = self._now
            unproven = self._now - works_at >= PROVEN_FOR or (whole.held_since or 0) > works_at
            if not unproven and not self._others_missing(outcomes, since=works_at):
                continue
            self._recorded.paused.add(application)
            if pairs.pause_for_key_check(self._connection, application, now=self._now):
                what = {"application": application, "rule": KEY_CHECK}
                events.append(self._connection, "hold", at=self._now, by="policy", **what)

    def _others_missing(self, outcomes: Sequence[Outcome], *, since: Micros) -> bool:
        """Whether another grant of the application was not found either, after ``since``."""
        first = outcomes[0]
        if any(outcome.lane_id != first.lane_id for outcome in outcomes):
            return since < self._now
        lane = schema.lane.c
        another = exists().where(
            lane.application == self._lane_of(first).application,
            lane.id != first.lane_id,
            lane.closed_at > since,
            lane.closed_rule == first.rule,
            lane.suspected,
            lane.gone.is_(False),
        )
        return bool(self._connection.execute(select(another)).scalar_one())

    def _note(self, kind: str, outcome: Outcome, *, reason: str | None = None) -> None:
        """Write an event: an answer changed how its lane, or the pair above it, is served. Once for each incident."""
        lane, hold = self._lane_of(outcome), outcome.hold
        scope = Scope.GRANT if hold is None or kind == "narrowed" else hold.scope
        self._events.append(
            events.event(
                kind,
                at=self._now,
                by="policy" if hold is None else hold.by,
                application=lane.application,
                provider=None if scope is Scope.APPLICATION else lane.provider,
                grant_id=lane.grant_id if scope is Scope.GRANT else None,
                job_id=outcome.job_id,
                rule=outcome.rule if hold is None else hold.rule,
                reason=reason,
            )
        )


def _is_in_turn(job: LockedJob, outcome: Outcome) -> bool:
    """Whether a job is still on the wire in the turn that its outcome comes from."""
    return job.state == State.SENDING and job.turn == outcome.fence


def _concerns_pairs(hold: Hold) -> bool:
    """Whether a hold may change the pairs above its grant."""
    return hold.above_grant or hold.identify or hold.missing


def _pair_of(lane: Lane, hold: Hold) -> tuple[str, str]:
    """The pair that a hold above the grant concerns, or a grant that is missing."""
    return lane.application, lane.provider if hold.scope is Scope.PROVIDER else WHOLE_APPLICATION
