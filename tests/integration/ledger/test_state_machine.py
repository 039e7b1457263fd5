"""Lanes, turns, holds, changes of waiting jobs, clocks and crashes in any order: the real ledger and what must hold.

The machine plays enqueueing applications, dispatcher, broker, two workers, rescuer, operators and the API, each at the
worst moment it can find. It keeps its own book of what the API has accepted and of who may make calls, and compares.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from dataclasses import replace as changed
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, Engine

from sendq import NEVER, NotWaiting, Operators, Options, Send, State, Window
from sendq.clock import SECOND, Micros, moment
from sendq.facts.lanes import Lane
from sendq.facts.outcomes import Hold, Outcome, Scope
from sendq.facts.turns import Claimed
from sendq.facts.turns import Turn as Offer
from sendq.ids import new_id
from sendq.ledger import grants
from sendq.ledger.db import migrate, schema
from sendq.ledger.db.engine import open_engine
from sendq.ledger.dispatching import rescue, workers
from sendq.ledger.dispatching.offers import offer_turns
from sendq.ledger.dispatching.turns import claim_at_once
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.ledger.operators import holds
from sendq.messages.payload import freeze_send
from sendq.rules.pace import Limit, call_of
from sendq.rules.paces import PaceRule, Paces
from sendq.rules.paces import Window as PaceWindow
from sendq.rules.preflight import must_be_repeated, objection
from sendq.rules.starts import first_to_begin, start_soon
from sendq.rules.states import FINAL, Event
from sendq.rules.windows import put_off_until
from tests.support.following import message_of
from tests.support.ledger import MESSAGE, Ledger, end, outcome
from worker.leading.rounds import Rounds

GRANTS = {"g1": "microsoft", "g2": "google", "g3": "imap"}

# Every step commits: where there is one, in a directory that is memory.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

# Limits that a few jobs exceed.
SLOW = Paces(
    [
        PaceRule(provider="microsoft", limits={"messages": PaceWindow(4)}),
        PaceRule(grant="g2", limits={"minute": PaceWindow(300)}),
    ]
)

# Each is closed for some minutes soon after the machine's start, at 20:26 UTC, and open within two hours of any time.
WINDOWS = [
    Window("21:00-20:30", tz="UTC"),
    Window("21:45-23:15", tz="Europe/London"),
    Window("03:15-02:20", tz="Asia/Kolkata"),
]
windows = st.sampled_from([None, None, *WINDOWS])


@cache
def template() -> Path:
    """A migrated, empty ledger, to be copied."""
    path = Path(tempfile.mkdtemp(prefix="sendq-machine-", dir=MEMORY)) / "template.db"
    migrate.run(f"sqlite:///{path}")
    return path


@dataclass
class Turn:
    """A turn as its worker has it: jobs begun and not yet called, and those on the wire, whose answers are to come."""

    claimed: Claimed
    worker: UUID
    begun: list[Any]
    wire: list[Outcome] = field(default_factory=list)
    over: bool = False

    @property
    def waiting(self) -> list[Any]:
        return [job for job in self.claimed.jobs if job.id not in self.tried]

    tried: set[UUID] = field(default_factory=set)


class Machine(RuleBasedStateMachine):
    """Every rule is something that may happen; every invariant must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="sendq-machine-", dir=MEMORY))
        self.ledger = Ledger(self.open_ledger())
        self.clock = self.ledger.clock
        self.workers = [self.new_worker(), self.new_worker()]
        self.broker: list[Offer] = []
        self.turns: list[Turn] = []
        self.jobs: set[UUID] = set()
        self.accepted: set[str] = set()  # by the API, by idempotency key
        self.mail: Counter[UUID] = Counter()
        self.held: set[UUID] = set()  # jobs, by a person
        self.unapproved: set[UUID] = set()  # jobs that need approval and have none
        self.not_before: dict[UUID, Micros] = {}  # rescheduled to then
        self.content: dict[UUID, bytes] = {}  # replaced by this
        self.windows: dict[UUID, Window | None] = {}  # of jobs
        self.starts: dict[str, list[tuple[Micros, str]]] = {grant: [] for grant in GRANTS}

    def open_ledger(self) -> Engine:
        """An empty ledger."""
        shutil.copy(template(), self.home / "ledger.db")
        return open_engine(f"sqlite:///{self.home / 'ledger.db'}")

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.ledger.engine.dispose()
            shutil.rmtree(self.home)

    # --- what may happen ----------------------------------------------------------------------------------------------

    @rule(
        grant=st.sampled_from(sorted(GRANTS)),
        number=st.integers(1, 6),
        priority=st.sampled_from(["high", "low"]),
        approvals=st.integers(0, 2),
        window=windows,
    )
    def enqueue(self, grant: str, number: int, priority: str, approvals: int = 0, window: Window | None = None) -> None:
        options = Options(provider=GRANTS[grant], priority=priority, window=window)
        expires_at = moment(self.clock() + 1_200 * SECOND)
        gated = changed(options, needs_approval=True, expires_at=expires_at, window=None)
        sends = [Send(grant, MESSAGE, options)] * number + [Send(grant, MESSAGE, gated)] * approvals
        jobs = [UUID(job.id) for job in self.ledger.queue.send_many(sends)]
        self.jobs |= set(jobs)
        self.unapproved |= set(jobs[number:])
        self.windows |= dict.fromkeys(jobs[:number], window) | dict.fromkeys(jobs[number:])

    @rule(grant=st.sampled_from(sorted(GRANTS)), window=windows)
    def give_a_window(self, grant: str, window: Window | None) -> None:
        """An operator sets or removes the window of a grant."""
        Operators(self.ledger.engine, now=self.clock).set_window(grant, window, by="leyah", reason="test").finish()

    @rule(worker=st.integers(0, 1), message=st.sampled_from(["comes", "comes twice", "comes later", "is lost"]))
    def serve(self, worker: int, message: str) -> None:
        """The dispatcher gives turns; the broker does with them what it likes."""
        offered = self.dispatch()
        if message == "is lost":
            return
        if message in ("comes later", "comes twice"):
            self.broker += offered
        if message != "comes later":
            for turn in offered:
                self.claim(turn, self.workers[worker])

    @rule(worker=st.integers(0, 1))
    def serve_at_once(self, worker: int) -> None:
        """A round of a dispatcher whose process claims at once what it can, while all pairs work; the rest is lost."""
        mine = self.workers[worker]

        def claim(connection: Connection, offered: Sequence[Lane], _busy: float, _over: ExitStack) -> Any:
            found = claim_at_once(connection, offered, worker=mine, now=self.clock(), jobs_each=4)
            return (lambda: self.take(found, mine)) if found else None

        with self.ledger.writing() as connection:
            connection.execute(schema.pair.update().values(ramp=None, proven_at=self.clock()))
        with closing(Rounds(self.ledger.engine, now=self.clock, paces=SLOW, claim_at_once=claim)) as rounds:
            rounds.run()

    @precondition(lambda self: self.broker)
    @rule(worker=st.integers(0, 1))
    def deliver_what_is_old(self, worker: int) -> None:
        while self.broker:
            self.claim(self.broker.pop(), self.workers[worker])

    @rule(data=st.data(), fate=st.sampled_from(["accept", "unknown", "throttle", "retry", "reauth"]), now=st.booleans())
    def call(self, data: st.DataObject, fate: str, now: bool) -> None:
        """A begun job goes on the wire; its answer is recorded at once, or is still to come."""
        if not self.live():
            self.enqueue(data.draw(st.sampled_from(sorted(GRANTS))), 2, "low")
            self.serve(0, "comes")
        if not self.live():
            return
        turn = data.draw(st.sampled_from(self.live()))
        self.put_on_the_wire(turn, fate)
        if now:
            self.ledger.record(turn.wire.pop())
            self.advance_turn(turn)

    @precondition(lambda self: self.on_the_wire())
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """An answer comes in, and is recorded: also of a worker that was buried meanwhile."""
        turn = data.draw(st.sampled_from(self.on_the_wire()))
        self.ledger.record(turn.wire.pop(0))

    @precondition(lambda self: self.turns)
    @rule(worker=st.integers(0, 1), wakes_up=st.booleans())
    def lose_a_worker(self, worker: int, wakes_up: bool) -> None:
        """``kill -9``; or it was suspended: it makes no more calls, for its lease is over, but its facts come late."""
        name = self.workers[worker]
        if not wakes_up:
            self.turns = [turn for turn in self.turns if turn.worker != name]
        self.clock.advance(10)
        with self.ledger.writing() as connection:
            rescue.bury(connection, name, now=self.clock())
        self.workers[worker] = self.new_worker()
        for turn in self.turns:
            turn.over = turn.over or turn.worker == name

    @rule(data=st.data(), what=st.sampled_from(["wait", "hold", "release", "cancel", "rescue", "modify"]))
    def happen(self, data: st.DataObject, what: str) -> None:
        """What is not about calls."""
        grant = data.draw(st.sampled_from(sorted(GRANTS)))
        match what:
            case "wait":
                self.clock.advance(data.draw(st.sampled_from([1, 5, 30, 1_300])))
            case "hold":
                self.hold(grant, minutes=5)
            case "release":
                self.release(grant)
            case "cancel" if self.jobs:
                self.ledger.queue.cancel(str(data.draw(st.sampled_from(sorted(self.jobs)))))
            case "modify":
                message = data.draw(st.sampled_from(["m1", "m2"]))
                window = data.draw(windows)
                made = set(self.ledger.modify(grant, [message], provider=GRANTS[grant], window=window))
                self.jobs |= made
                self.windows |= dict.fromkeys(made, window)
            case "rescue":
                self.rescue()

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        thought=st.sampled_from(["reschedule", "hold", "hold", "release", "priority", "replace", "approve", "reject"]),
        seconds=st.sampled_from([-60, 0, 30, 1_200]),
    )
    def think_again(self, data: st.DataObject, thought: str, seconds: int) -> None:
        """Of a job that waits; one that is begun, whose outcome is unknown, or that has ended is left alone."""
        job = data.draw(st.sampled_from(sorted(self.jobs)))
        before, unapproved = self.ledger.job(job), set(self.unapproved)
        queue, name = self.ledger.queue, str(job)
        due_at = self.clock() + seconds * SECOND
        try:
            match thought:
                case "reschedule":
                    queue.reschedule(name, due_at=moment(due_at), expires_at=NEVER)
                    self.not_before[job] = due_at
                case "hold":
                    queue.hold(name)
                    self.held.add(job)
                case "release":
                    queue.release(name)
                    self.held.discard(job)
                case "priority":
                    queue.set_priority(name, priority=data.draw(st.sampled_from(["high", "low"])))
                case "replace":
                    if before.operation != "send":
                        return
                    new = MESSAGE.model_copy(update={"subject": f"version {before.content_version}"})
                    queue.replace(name, new)
                    self.content[job] = freeze_send(new, job_id=name)
                    if before.approved_at is not None:
                        self.unapproved.add(job)
                case "approve":
                    queue.approve(name, by="leyah")
                    self.unapproved.discard(job)
                case "reject":
                    queue.reject(name, by="leyah")
            waits = True
        except NotWaiting:
            waits = False
        unknown = before.operation == "send" and before.doubt_at is not None
        in_time = job in unapproved and before.approve_by > self.clock()
        allowed = in_time or thought not in ("approve", "reject")
        assert waits == (before.state == State.QUEUED and not unknown and allowed)
        assert waits or self.ledger.job(job) == before

    def hold(self, grant: str, minutes: int) -> None:
        until = self.clock() + minutes * 60 * SECOND
        with self.ledger.writing() as connection:
            holds.hold_grant(connection, "default", grant, until=until, by="leyah", reason="test", now=self.clock())

    def release(self, grant: str) -> None:
        with self.ledger.writing() as connection:
            holds.release_grant(connection, "default", grant, by="leyah", reason="test", now=self.clock())
            lane = grants.lane_of(connection, "default", grant)
            if lane is not None:
                grants.reopen(connection, lane, by="leyah", now=self.clock())

    def rescue(self) -> None:
        with self.ledger.writing() as connection:
            found = take_wakes(connection, limit=1_000)
            wake_lanes(connection, found, now=self.clock(), paces=SLOW)
        self.clock.advance(10)
        now = self.clock()
        with self.ledger.writing() as connection:
            rescue.take_back_unclaimed(connection, offered_before=now - 10 * SECOND, now=now)
        with self.ledger.writing() as connection:
            rescue.expire(connection, now=now, limit=100)
        with self.ledger.writing() as connection:
            rescue.give_up_unapproved(connection, now=now, limit=100)
        with self.ledger.writing() as connection:
            _, asleep = rescue.sweep(connection, after=UUID(int=0), limit=100, now=now)
        assert asleep == 0, "a lane was asleep with jobs waiting"

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        assert all(times <= 1 for times in self.mail.values())

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = self.ledger.rows(schema.job)
        assert {row.id for row in rows} == self.jobs
        for row in rows:
            if row.operation == "send" and row.state == State.SENT:
                assert self.mail[row.id] == 1, "sent, says the ledger, and it is not"
            if row.operation == "send" and row.state in (State.CANCELLED, State.EXPIRED):
                assert self.mail[row.id] == 0, "not sent, says the ledger, and it is"
            if row.rule == "not_approved":
                assert (row.state, self.mail[row.id]) == (State.DEAD, 0)

    @invariant()
    def a_lane_is_in_one_turn_at_a_time(self) -> None:
        calling = Counter(turn.claimed.lane.id for turn in self.open_turns())
        assert all(turns == 1 for turns in calling.values())

    @invariant()
    def no_more_is_begun_than_the_width(self) -> None:
        begun = Counter(row.lane_id for row in self.ledger.rows(schema.job) if row.state == State.SENDING)
        assert all(begun[lane.id] <= lane.width for lane in self.ledger.rows(schema.lane))

    @invariant()
    def the_pace_is_kept(self) -> None:
        for grant, starts in self.starts.items():
            pace = SLOW.of("default", GRANTS[grant], grant)
            assert all(most_in_a_window(starts, limit) <= limit.units for limit in pace.limits)

    # --- how it is done -----------------------------------------------------------------------------------------------

    def new_worker(self) -> UUID:
        worker, load = new_id(), workers.Load(capacity=10)
        with self.ledger.writing() as connection:
            workers.register(connection, worker, name="w", pid=1, version="0", load=load, now=self.clock())
        return worker

    def dispatch(self) -> list[Offer]:
        with self.ledger.writing() as connection:
            found = take_wakes(connection, limit=1_000)
            wake_lanes(connection, found, now=self.clock(), paces=SLOW)
            offered = offer_turns(connection, self.ledger.due_in(connection), now=self.clock())
        rows = {row.id: row for row in self.ledger.rows(schema.lane)}
        pairs = {row.provider: row.held_until or 0 for row in self.ledger.rows(schema.pair)}
        for turn in offered:
            lane = rows[turn.lane_id]
            held = max(lane.held_until or 0, pairs.get(lane.provider, 0), pairs.get("*", 0))
            assert held <= self.clock(), "a turn for a held lane"
            assert lane.closed_at is None, "a turn for a lane whose owner must sign in"
        return offered

    def finish(self, turn: Turn) -> None:
        while not turn.over and turn in self.turns:
            while turn.begun:
                self.put_on_the_wire(turn, "accept")
            while turn.wire:
                self.ledger.record(turn.wire.pop(0))
            self.advance_turn(turn)

    def live(self) -> list[Turn]:
        return [turn for turn in self.open_turns() if turn.begun]

    def on_the_wire(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.wire]

    def open_turns(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.over]

    def claim(self, message: Offer, worker: UUID) -> None:
        self.take(self.ledger.claim([message], worker=worker, jobs_each=4), worker)

    def take(self, turns: Sequence[Claimed], worker: UUID) -> None:
        for claimed in turns:
            begun = [job for job in claimed.jobs if job.id in claimed.begun]
            assert all(self.is_open(claimed, job, self.clock()) for job in begun), "begun outside its window"
            self.turns.append(Turn(claimed, worker, begun, tried={job.id for job in begun}))
            if not begun:
                self.advance_turn(self.turns[-1])

    def put_on_the_wire(self, turn: Turn, fate: str) -> None:
        """The next begun job's call, and what becomes of it at the API."""
        job, claimed = turn.begun.pop(0), turn.claimed
        now = max(self.clock(), claimed.starts.get(job.id, 0))
        self.clock.at = now
        lane = self.ledger.lane(claimed.lane.grant_id)
        event = objection(job, now=now)
        opens_at = put_off_until(job, claimed.lane, now=now)
        if event is None and opens_at is not None:
            put_off: dict[str, Any] = {"called": False, "begun_at": now, "next_at": opens_at}
            turn.wire.append(outcome(claimed, job, Event.RETURN, **put_off))
            return
        if event is not None or (lane.held_until or 0) > now or lane.closed_at is not None:
            given_back = event or Event.RETURN
            turn.wire.append(outcome(claimed, job, given_back, called=False, begun_at=now))
            return
        assert self.is_open(claimed, job, now), "called outside its window"
        self.check_call(job, now)
        self.starts[claimed.lane.grant_id].append((now, call_of(job.operation, job.form)))
        key = f"{job.id}:{job.generation}"
        replayed = key in self.accepted
        if job.operation == "send" and fate in ("accept", "unknown") and not replayed:
            self.accepted.add(key)
            self.mail[job.id] += 1
        turn.wire.append(self.outcome(turn, job, "accept" if replayed else fate, now))

    def check_call(self, job: Any, now: Micros) -> None:
        """What must hold for a job whose call is made now."""
        assert job.id not in self.held, "a person holds it"
        assert job.id not in self.unapproved, "it is not approved"
        assert now >= self.not_before.get(job.id, 0), "it was put off"
        if job.operation == "send":
            self.check_content(job)

    def check_content(self, job: Any) -> None:
        assert job.body == self.content.get(job.id, freeze_send(MESSAGE, job_id=str(job.id))), "it was replaced"

    def is_open(self, claimed: Claimed, job: Any, now: Micros) -> bool:
        """Whether a job may begin by its own window or, without one, by that which its lane had at the claim."""
        own, of_lane = self.windows[job.id], claimed.lane.time_window
        window = own or next((one for one in WINDOWS if str(one) == of_lane), None)
        return window is None or window.is_open(now) or must_be_repeated(job.operation, job.doubt_at)

    def outcome(self, turn: Turn, job: Any, fate: str, now: Micros) -> Outcome:
        claimed, key_at = turn.claimed, job.key_at or now
        definite: dict[str, Any] = {"sent": "no", "new_generation": job.operation == "send" and job.doubt_at is None}
        unknown: dict[str, Any] = {"sent": "maybe" if job.operation == "send" or job.doubt_at else "no"}
        match fate:
            case "accept":
                return outcome(claimed, job, Event.ACCEPT, sent="yes", begun_at=now, message_id=message_of(job.id))
            case "unknown":
                too_old = job.operation == "send" and now - key_at > 40 * 60 * SECOND
                event = Event.DOUBT if too_old else Event.RETURN
                return outcome(claimed, job, event, **unknown, counts=True, begun_at=now)
            case "throttle":
                hold = Hold(Scope.GRANT, "throttled", "policy", now + 1_200 * SECOND)
                # After an unknown outcome a throttle proves nothing about the first request: the key stays.
                return outcome(
                    claimed, job, Event.RETURN, **(definite if not job.doubt_at else unknown), hold=hold, begun_at=now
                )
            case "reauth":
                hold = Hold(Scope.GRANT, "expired", "policy", None)
                return outcome(
                    claimed, job, Event.RETURN, **(definite if not job.doubt_at else unknown), hold=hold, begun_at=now
                )
            case _:
                made = outcome(
                    claimed, job, Event.RETURN, **(definite if not job.doubt_at else unknown), counts=True, begun_at=now
                )
                return made._replace(next_at=now + 30 * SECOND)

    def advance_turn(self, turn: Turn) -> None:
        claimed, lane = turn.claimed, self.ledger.lane(turn.claimed.lane.grant_id)
        open_now = len(turn.begun) + len(turn.wire)
        objects = {job.object_id for job in claimed.jobs if job.id in turn.tried}
        free = [job for job in turn.waiting if job.object_id is None or job.object_id not in objects]
        stopped = (lane.held_until or 0) > self.clock() or lane.closed_at is not None
        chosen = [] if stopped else first_to_begin(free, max(0, min(lane.ramp, claimed.slots) - open_now))
        starts = start_soon(chosen, claimed.pacer, now=self.clock())
        if starts:
            begins = [(claimed, job.id) for job in chosen if job.id in starts]
            begun = self.ledger.record(begins=begins).begun
            turn.tried |= set(starts)
            turn.begun += [job for job in chosen if job.id in begun]
        elif not open_now:
            ready_at = claimed.pacer.ready_at(self.clock())
            self.ledger.record(ends=[changed(end(claimed, ready_at=ready_at), used=claimed.pacer.text)])
            self.turns.remove(turn)

    def drain(self) -> None:
        """Nothing goes wrong any more: every job comes to an end without a hand, but for owners who must sign in."""
        for _ in range(400):
            for turn in list(self.turns):
                while turn.over and turn.wire:
                    self.ledger.record(turn.wire.pop(0))
                self.finish(turn)
            self.turns = [turn for turn in self.turns if not turn.over]
            for grant in GRANTS:
                self.release(grant)
            for job in list(self.unapproved):
                with suppress(NotWaiting):  # in doubt now; approved once that is resolved
                    self.ledger.queue.approve(str(job), by="leyah")
                    self.unapproved.discard(job)
            for job in list(self.held):
                with suppress(NotWaiting):
                    self.ledger.queue.release(str(job))
                    self.held.discard(job)
            self.rescue()
            for message in [*self.broker, *self.dispatch()]:
                self.claim(message, self.workers[0])
            self.broker.clear()
            self.nothing_is_sent_twice()
            self.nothing_is_lost()
            self.the_pace_is_kept()
            states = {row.state for row in self.ledger.rows(schema.job)}
            if states <= {*FINAL, State.IN_DOUBT} and not self.turns:
                return
            self.clock.advance(20)
        raise AssertionError(f"not drained: {Counter(row.state for row in self.ledger.rows(schema.job))}")


def most_in_a_window(starts: list[tuple[Micros, str]], limit: Limit) -> int:
    """The most units that started in any window of the limit."""
    units = [(at, limit.costs.get(call, 0)) for at, call in starts]
    return max((sum(cost for at, cost in units if first <= at < first + limit.window) for first, _ in units), default=0)


class TestWhateverHappens:
    def test_no_job_is_lost_or_sent_twice_no_lane_served_twice_or_held_and_the_pace_is_kept(self) -> None:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=settings().max_examples * 2 // 5,  # 10, or 100 in ./dev test-all
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
