"""A turn: a few jobs of one lane, carried out by one worker, on the event loop of its process.

    claimed ─▶ for each job:  may it go?  ─▶ call ─▶ decide ─▶ record ─▶ the next may begin
                                  │                              │
                                  └ no: it returns, or ends      └ one commit: this outcome, and the next job begun

A job goes on the wire only after the ledger has committed that it is begun, and a lane never has more begun jobs
without a recorded outcome than its ramp allows: only those can be in doubt if this process dies. A turn ends when there
is nothing left to begin, when its time is over, or when an answer affects more than its job.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Protocol
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.outcomes import Attempt, Outcome, Sent
from sendq.facts.turns import Begin, Claimed, End, Shrink
from sendq.ids import new_id
from sendq.rules.message_state import Verdict
from sendq.rules.pace import APART, call_of, next_ramp
from sendq.rules.preflight import DEATHS_TOLERATED, objection
from sendq.rules.rule_ids import (
    CHANGED_SINCE,
    GONE_SINCE,
    NOT_KEPT,
    OUTSIDE_WINDOW,
    READ_FIRST,
    RETURNED,
    RULE_OF,
)
from sendq.rules.starts import LONGEST_PAUSE, first_to_begin, start_soon
from sendq.rules.states import Event
from sendq.rules.windows import put_off_until
from tasks import failpoints
from tasks.calling.calls import is_gone, kind_of, make_call, read_answer
from tasks.calling.isolated import NoProcess
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.undoing import is_as_kept, read_message, restore, state_after, state_before
from tasks.calling.upload import Upload
from tasks.calling.usage import units_used
from tasks.policy.decide import Decision, JobFacts, decide
from tasks.policy.failure import Answer, Failure, Success
from tasks.policy.row import Policy, Route

# Wait before the next attempt when the machine cannot start a process (out of memory or processes).
PROCESS_PAUSE: Micros = 10 * SECOND

# A message that was read longer ago is read again before it is changed, because somebody may have changed it since.
FRESH: Micros = 5 * SECOND

BUG = "internal_error"


class Surroundings(Protocol):
    """What a turn needs from the process that it runs in."""

    client: NylasClient
    policy: Policy
    turn_time: Micros
    metadata_key: str

    @property
    def worker_id(self) -> UUID:
        """The id under which turns are claimed now; it changes after this worker was declared dead."""

    @property
    def key_max_age(self) -> Micros:
        """The age up to which an idempotency key is trusted now; none while the clock is behind."""

    def now(self) -> Micros:
        """The wall clock."""

    def chance(self) -> float:
        """A random number from 0 to 1."""

    def application(self, name: str) -> Application:
        """A configured application; for any other name, one whose calls fail before they are made."""

    def upload(self, job: ClaimedJob) -> Upload:
        """The body of a job whose request has files."""

    def may_call(self, pair: tuple[str, str], offered_at: Micros) -> bool:
        """Whether a turn of this pair may begin calls: the lease is valid, the process is not stopping, and the pair
        has not been held since the turn was offered."""

    def hold(self, pair: tuple[str, str], scope: str, *, recorded: bool) -> None:
        """Apply a hold to the other turns of this process at once, and again when the ledger has ``recorded`` it.

        Turns that are offered after that are not affected: the ledger took the hold into account.
        """

    def is_outage(self, application: str, lane_id: UUID) -> bool:
        """Note a failure that several grants may share (a row with ``escalates``); returns whether they do."""

    def succeeded(self, application: str) -> None:
        """Note a success: there is no such outage."""

    async def record(
        self, pair: tuple[str, str], outcome: Outcome | None, begins: Collection[Begin], end: End | None
    ) -> Collection[UUID]:
        """Commit; returns those of ``begins`` that may go on the wire."""

    async def finish(self, pair: tuple[str, str], end: End) -> None:
        """Commit the end of a turn that has no outcome to go with it."""

    def alone(self, provider: str, job: ClaimedJob) -> AbstractAsyncContextManager[NylasClient]:
        """A client whose single call, the job's, is made by a separate process; waits until one is allowed.

        Raises `NoProcess` if none can be started.
        """

    def on_the_wire(self, provider: str, slow: Callable[[], None]) -> AbstractContextManager[object]:
        """Count a call while it lasts; if it becomes slow, its slot goes to others and ``slow`` is called."""

    def shrink(self, shrink: Shrink, spare: int) -> None:
        """Reduce the slots that a turn holds; ``spare`` of them were not in use for a call."""

    def bug(self, job_id: UUID, grant_id: str) -> None:
        """Log the unexpected exception that is being handled, and alert."""


async def run(claimed: Claimed, around: Surroundings) -> None:
    """Carry out one turn until its end is recorded."""
    await _Turn(claimed, around).run()


class _Turn:
    """The state of one turn. Everything runs on one event loop, so there are no locks."""

    def __init__(self, claimed: Claimed, around: Surroundings) -> None:
        self._lane, self._around = claimed.lane, around
        self._pair = (claimed.lane.application, claimed.lane.provider)
        self._streak, self._budgets = claimed.streak, claimed.budgets
        self._offered_at: Micros = claimed.lane.turn_at or 0
        self._worker_id = claimed.worker
        self._waiting: deque[ClaimedJob] = deque(job for job in claimed.jobs if job.id not in claimed.begun)
        self._begun: deque[ClaimedJob] = deque(job for job in claimed.jobs if job.id in claimed.begun)
        self._ramp: int = claimed.lane.ramp  # what the lane has earned
        self._slots = claimed.slots  # what this turn was given, plus what it earns by successes
        self._held = claimed.slots  # the slots that others cannot use
        self._pacer, self._starts = claimed.pacer, dict(claimed.starts)
        self._successes = 0
        self._modified_at: Micros = 0
        self._slow = 0  # calls on the wire that gave up their slots
        self._ends_at = around.now() + around.turn_time
        self._windowed = any(job.time_window or self._lane.time_window for job in claimed.jobs)
        self._stopped = False
        self._objects: set[str] = set()  # objects of jobs of this turn that are begun or did not succeed
        self._read_at: dict[UUID, Micros] = {}  # when this turn read the messages of changes that can be undone
        self._open = 0  # begun jobs without an outcome, recorded or being recorded
        self._ended = False

    async def run(self) -> None:
        """Run until every begun job has a recorded outcome and no further one may begin."""
        if self._lane.width == 1 or len(self._begun) + len(self._waiting) == 1:
            while self._begun:
                await self._carry_out(self._take())
        else:
            await self._carry_out_together()
        if not self._ended:
            await self._around.finish(self._pair, self._end())

    async def _carry_out_together(self) -> None:
        running: set[asyncio.Task[None]] = set()
        bug: BaseException | None = None
        while self._begun or running:
            while self._begun:
                running.add(asyncio.create_task(self._carry_out(self._take())))
            done, running = await asyncio.wait(
                running, return_when=asyncio.FIRST_COMPLETED, timeout=self._until_next_start()
            )
            for task in done:
                bug = bug or task.exception()
            if not done and (begins := self._next_to_begin()):
                running.add(asyncio.create_task(self._record(None, begins)))
        if bug is not None:  # raised only now, so that the outcomes of the other calls are recorded
            raise bug

    def _take(self) -> ClaimedJob:
        """The next begun job. It is open from now on, and not from its task's first step: an outcome that comes in
        between would begin another one in its place.
        """
        job = self._begun.popleft()
        self._open += 1
        if job.object_id is not None:
            self._objects.add(job.object_id)
        return job

    async def _carry_out(self, job: ClaimedJob) -> None:
        try:
            outcome = await self._outcome_of(job)
        except Exception:  # a bug in sendq, which must not affect the lane's other jobs
            self._around.bug(job.id, self._lane.grant_id)
            event = Event.DOUBT if job.operation == "send" else Event.GIVE_UP
            outcome = self._without_call(job, event, BUG, sent=Sent.MAYBE)
        self._open -= 1
        if outcome.event is Event.ACCEPT and job.object_id is not None:
            self._objects.discard(job.object_id)
        if outcome.rule == READ_FIRST:
            self._change_next(job, outcome)
        try:
            await self._record(outcome, self._next_to_begin())
        finally:  # in any case, or the pair would be held in this process for ever
            if outcome.hold is not None and outcome.hold.above_grant:
                self._around.hold(self._pair, outcome.hold.scope, recorded=True)

    def _change_next(self, job: ClaimedJob, read: Outcome) -> None:
        """Make the change of a message right after what it was is committed, before anybody else touches it."""
        assert job.object_id is not None
        assert read.state is not None
        self._read_at[job.id] = read.begun_at
        self._objects.discard(job.object_id)
        doubt_at = None if job.operation == "read" else job.doubt_at  # a read that was lost has changed nothing
        self._waiting.appendleft(
            job._replace(operation="modify", rule=READ_FIRST, snapshot=(read.state, None), doubt_at=doubt_at)
        )

    async def _record(self, outcome: Outcome | None, begins: list[ClaimedJob]) -> None:
        """Have the outcome committed together with the jobs to begin next, which are open already, or, if there are
        none, the turn's end.
        """
        end = self._end() if not begins and not self._open and not self._begun else None
        self._ended = end is not None
        lane = self._lane
        wanted = [
            Begin(
                lane.id,
                lane.fence,
                self._worker_id,
                begin.id,
                begin.generation,
                begin.content_version,
                self._budgets.get(begin.id, ()),
            )
            for begin in begins
        ]
        may_go = await self._around.record(self._pair, outcome, wanted, end)
        self._open -= len(begins)
        self._begun.extend(begin for begin in begins if begin.id in may_go)

    def _next_to_begin(self) -> list[ClaimedJob]:
        """The jobs to begin with the commit of an outcome: as many as the ramp allows. They count as open until that is
        done (`_record`), so that a second outcome neither begins as many again nor ends the turn.
        """
        if not self._waiting:
            return []
        now = self._around.now()
        if self._windowed and any(put_off_until(job, self._lane, now=now) is not None for job in self._waiting):
            self._ends_at = min(self._ends_at, now)  # the next claim puts these off
        if now >= self._ends_at or not self._may_go_on():
            return []
        room = max(0, self._width() - self._open - len(self._begun))
        if not room:
            return []
        starts = start_soon(first_to_begin(self._free(), room), self._pacer, now=now)
        self._starts |= starts
        chosen = [job for job in self._waiting if job.id in starts]
        for job in chosen:
            self._waiting.remove(job)
            if job.object_id is not None:
                self._objects.add(job.object_id)
        self._open += len(chosen)
        return chosen

    def _free(self) -> list[ClaimedJob]:
        """The waiting jobs that need not wait for an earlier job on the same object."""
        return [job for job in self._waiting if job.object_id is None or job.object_id not in self._objects]

    def _width(self) -> int:
        return min(self._ramp, self._slots)

    def _until_next_start(self) -> float | None:
        """Seconds until the pace lets another job begin while calls are still on the wire; None if it lets none.

        Without this, a lane whose calls last longer than its spacing would fall behind its pace.
        """
        if self._open >= self._width() or not self._may_go_on() or not (free := self._free()):
            return None
        now = self._around.now()
        at = self._pacer.start(call_of(free[0].operation, free[0].form), now)
        if at >= self._ends_at:
            return None
        return max(0, at - LONGEST_PAUSE - now) / SECOND + TICK_S

    def _may_go_on(self) -> bool:
        """Whether a call may begin: nothing has stopped the turn, and its worker has not been declared dead."""
        around = self._around
        if self._stopped or around.worker_id != self._worker_id:
            return False
        return around.may_call(self._pair, self._offered_at)

    def _end(self) -> End:
        now, free = self._around.now(), self._free()
        next_call = call_of(free[0].operation, free[0].form) if free else None
        return End(
            self._lane.id,
            self._lane.fence,
            self._worker_id,
            ready_at=self._pacer.ready_at(now) if next_call is None else self._pacer.start(next_call, now),
            ramp=self._ramp,
            used=self._pacer.text,
            successes=self._successes,
        )

    def _slow_call(self) -> None:
        """Handle a call that became slow and gave up its slot: begin no more calls, and give back the spare slots."""
        self._slow += 1
        self._ends_at = min(self._ends_at, self._around.now())
        spare = max(0, self._held - self._open)
        self._held -= spare
        lane = self._lane
        self._around.shrink(Shrink(lane.id, lane.fence, self._worker_id, max(0, self._held - self._slow)), spare)

    async def _outcome_of(self, job: ClaimedJob) -> Outcome:
        """Make the call unless there is an objection, and decide what the answer means."""
        around, lane = self._around, self._lane
        await self._wait_for_start(job)
        on_the_wire = around.on_the_wire(lane.provider, self._slow_call)
        if job.deaths < DEATHS_TOLERATED:
            return await self._attempt(job, around.client, on_the_wire)
        try:
            with on_the_wire:  # also counts the wait for a process, so that it cannot keep a slot for long
                async with around.alone(lane.provider, job) as client:
                    return await self._attempt(job, client, nullcontext())
        except NoProcess:
            return self._without_call(job, Event.RETURN, RETURNED, next_at=around.now() + PROCESS_PAUSE)

    async def _attempt(
        self, job: ClaimedJob, client: NylasClient, on_the_wire: AbstractContextManager[object]
    ) -> Outcome:
        around, lane = self._around, self._lane
        begun_at = around.now()
        # Checked again directly before the request, not only at the claim: things may have changed since.
        if not self._may_go_on():
            return self._without_call(job, Event.RETURN, RETURNED)
        event = objection(job, now=begun_at, key_max_age=around.key_max_age)
        if event is not None:
            return self._without_call(job, event, RULE_OF[event])
        if self._windowed and (opens_at := put_off_until(job, lane, now=begun_at)) is not None:
            return self._without_call(job, Event.RETURN, OUTSIDE_WINDOW, next_at=opens_at)
        if job.operation == "restore" and job.snapshot is None:
            return self._without_call(job, Event.CANCEL, NOT_KEPT)
        failpoints.reached("calling")
        verdict: Verdict | None = None
        with on_the_wire:
            application, grant_id, key = around.application(lane.application), lane.grant_id, around.metadata_key
            if job.operation == "restore":
                answer, verdict = await restore(client, around.client, application, grant_id, job, metadata_key=key)
            else:
                job, answer = await self._call(job, client, application, begun_at)
        failpoints.reached("answered")
        ended_at = around.now()
        result, page = read_answer(job, answer, provider=lane.provider, grant_id=lane.grant_id, now=ended_at)
        decision = self._decide(result, self._facts(job, begun_at), ended_at)
        outcome = self._as_outcome(job, result, decision, begun_at=begun_at, ended_at=ended_at)
        self._learn(decision)
        # The answer to a restore states what the second of its two calls used.
        stated = not result.replayed and job.operation != "restore"
        if stated and (units := units_used(answer.headers, lane.provider)) is not None:
            self._pacer.correct(call_of(job.operation, job.form), units, succeeded=isinstance(result, Success))
        if page is not None:
            return outcome._replace(page=page)
        if job.operation == "read":
            return _after_read(outcome, job, result, answer, metadata_key=key)
        if job.operation == "restore":
            return _after_restore(outcome, verdict, result)
        if isinstance(result, Success) and job.operation == "modify" and job.undoable:
            return outcome._replace(state=state_after(job, answer))
        return outcome

    async def _call(
        self, job: ClaimedJob, client: NylasClient, application: Application, begun_at: Micros
    ) -> tuple[ClaimedJob, Answer]:
        """Make the call of a job; returns the job as what it turned out to be, and the answer.

        A change that can be undone is a read instead if its message is not as it is kept: somebody else has changed it
        since, and that must be kept before the change is made.
        """
        around, grant_id, key = self._around, self._lane.grant_id, self._around.metadata_key
        since_read = begun_at - self._read_at.get(job.id, begun_at + 1)
        if job.operation == "modify" and job.undoable and not 0 <= since_read <= FRESH:
            self._pacer.take(call_of("read", None), begun_at)
            answer = await read_message(around.client, application, grant_id, job)
            if answer.status != 200 or not is_as_kept(job, answer, metadata_key=key):
                return job._replace(operation="read"), answer
        return job, await make_call(
            client, application, grant_id, job, metadata_key=key, upload=around.upload
        )  # fmt: skip

    async def _wait_for_start(self, job: ClaimedJob) -> None:
        """Wait until the job's start; jobs are begun a little early so that the pace does not wait for commits."""
        start = self._starts.pop(job.id)
        # A longer wait means that the clock was set back: the start lies in a time that no longer comes soon.
        longest = LONGEST_PAUSE + round(self._pacer.spacing * APART) + SECOND
        while 0 < (pause := self._not_before(job, start) - self._around.now()) <= longest:  # noqa: ASYNC110  # it waits for a time
            await asyncio.sleep(pause / SECOND)
        if self._pacer.spacing and job.operation != "send":
            self._modified_at = self._around.now()
            self._pacer.modified(self._modified_at)

    def _not_before(self, job: ClaimedJob, start: Micros) -> Micros:
        """The start, or later: modifications keep their spacing from the previous one, even if that was late."""
        if not self._pacer.spacing or job.operation == "send":
            return start
        return max(start, self._modified_at + round(self._pacer.spacing * APART))

    def _facts(self, job: ClaimedJob, begun_at: Micros) -> JobFacts:
        key_at = job.key_at if job.key_at is not None else begun_at
        return JobFacts(
            operation=kind_of(job.operation),
            attempts=job.attempts,
            generation=job.generation,
            key_age=begun_at - key_at,
            expires_at=job.expires_at,
            unknown_before=job.doubt_at is not None,
            attempt_known=job.doubt_at is not None,
            conflicts=job.conflicts,
            streak=max(self._lane.streak, self._streak),
        )

    def _decide(self, result: Success | Failure, facts: JobFacts, now: Micros) -> Decision:
        around, application = self._around, self._lane.application
        decision = decide(result, facts, now=now, chance=around.chance, policy=around.policy)
        if decision.event is Event.ACCEPT:
            if not result.replayed:
                around.succeeded(application)
        elif decision.row.escalates is not None and around.is_outage(application, self._lane.id):
            facts = facts._replace(outage=True)
            decision = decide(result, facts, now=now, chance=around.chance, policy=around.policy)
        return decision

    def _learn(self, decision: Decision) -> None:
        """Adapt the turn to an answer; the ledger does the same from the outcome."""
        lane = self._lane
        succeeded = decision.event is Event.ACCEPT
        self._successes += succeeded
        # An account that does not answer gets one call at a time from now on.
        self._ramp = 1 if decision.rule == NO_ANSWER_RULE else next_ramp(self._ramp, lane.width, succeeded=succeeded)
        self._slots = next_ramp(self._slots, lane.width, succeeded=succeeded)
        if decision.hold is not None or decision.row.route in (Route.REQUEUE, Route.REAUTH):
            self._stopped = True
        if decision.hold is not None and decision.hold.above_grant:
            self._around.hold(self._pair, decision.hold.scope, recorded=False)

    def _next_at(self, job: ClaimedJob, decision: Decision, ended_at: Micros) -> Micros:
        """When the job may go again. With a hold it keeps its place, because the lane waits."""
        if decision.hold is not None or decision.due_at is None:
            return min(job.next_at, ended_at)
        return decision.due_at

    def _without_call(
        self, job: ClaimedJob, event: Event, rule: str, *, sent: Sent = Sent.NO, next_at: Micros | None = None
    ) -> Outcome:
        return Outcome(
            id=new_id(),
            lane_id=self._lane.id,
            fence=self._lane.fence,
            job_id=job.id,
            operation=job.operation,
            event=event,
            rule=rule,
            next_at=job.next_at if next_at is None else next_at,
            sent=sent,
            begun_at=self._around.now(),
            **self._facts_for_listeners(job),
        )

    def _as_outcome(
        self, job: ClaimedJob, result: Success | Failure, decision: Decision, *, begun_at: Micros, ended_at: Micros
    ) -> Outcome:
        attempt_id = new_id()
        failure = result if isinstance(result, Failure) else None
        return Outcome(
            id=attempt_id,
            lane_id=self._lane.id,
            fence=self._lane.fence,
            job_id=job.id,
            operation=job.operation,
            event=decision.event,
            rule=decision.rule,
            next_at=self._next_at(job, decision, ended_at),
            batch_id=job.batch_id,
            attempt=Attempt(
                attempt_id,
                job.id,
                job.generation,
                self._worker_id,
                begun_at,
                ended_at,
                status=result.status,
                rule=decision.rule,
                route=decision.row.route,
                sent=decision.sent,
                error_type=failure.type if failure else None,
                error=failure.message if failure else None,
                request_id=result.request_id,
                replayed=result.replayed,
            ),
            counts=decision.costs_attempt,
            sent=decision.sent,
            new_generation=decision.new_generation,
            refused=decision.refused,
            message_id=result.message_id if isinstance(result, Success) and job.operation == "send" else None,
            conflict=decision.rule == CONFLICT_RULE,
            died=failure is not None and failure.fault == "died",
            hold=decision.hold,
            width=decision.width,
            spacing=decision.spacing,
            throttled=self._pacer.pace.learns and result.status == 429,
            begun_at=begun_at,
            **self._facts_for_listeners(job),
        )

    def _facts_for_listeners(self, job: ClaimedJob) -> dict[str, Any]:
        lane = self._lane
        return {
            "application": lane.application,
            "provider": lane.provider,
            "grant_id": lane.grant_id,
            "wanted_at": job.next_at,
            "attempts": job.attempts,
            "traceparent": job.traceparent,
            "tags": job.tags,
        }


def _after_read(
    outcome: Outcome, job: ClaimedJob, result: Success | Failure, answer: Answer, *, metadata_key: str
) -> Outcome:
    """Nothing was changed. A message that was read goes back with what it was, to be changed next."""
    attempt = None if outcome.attempt is None else outcome.attempt._replace(sent=Sent.NO)
    outcome = outcome._replace(sent=Sent.NO, attempt=attempt)
    if isinstance(result, Failure):
        return outcome
    state = state_before(job, answer, metadata_key=metadata_key)
    return outcome._replace(event=Event.RETURN, rule=READ_FIRST, next_at=job.next_at, state=state)


def _after_restore(outcome: Outcome, verdict: Verdict | None, result: Success | Failure) -> Outcome:
    """A message that was changed since, or is gone, is left alone."""
    if isinstance(result, Failure):
        return outcome._replace(event=Event.CANCEL, rule=GONE_SINCE, hold=None) if is_gone(result) else outcome
    left = {Verdict.CHANGED: CHANGED_SINCE, Verdict.UNKNOWN: NOT_KEPT}
    rule = None if verdict is None else left.get(verdict)
    return outcome if rule is None else outcome._replace(event=Event.CANCEL, rule=rule, sent=Sent.NO)


CONFLICT_RULE = "key_in_progress"
NO_ANSWER_RULE = "no_answer"

# How long after the time from which a job may begin its turn checks again.
TICK_S = 0.001
