"""The engine: carries out turns on the event loop of one worker process.

    Celery's threads ── the intake: wait for room, claim, load ──▶ one event loop ── calls, decisions ──▶ the recorder
                                                                        │
                                                               a heartbeat every 2 s

The heartbeat runs on the loop, so a worker whose loop hangs is declared dead. The load of this process is counted in
calls (`worker.serving.slots`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine as Ledger

from sendq import clock
from sendq.clock import Micros
from sendq.facts.jobs import ClaimedJob
from sendq.facts.lanes import WHOLE_APPLICATION
from sendq.facts.outcomes import Outcome, Scope
from sendq.facts.turns import Begin, Claimed, End, Recorded, Shrink, Unopened
from sendq.ledger.dispatching.workers import Load
from settings import Settings
from tasks import turn
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.upload import Upload
from tasks.policy.row import Policy
from worker.clocks.ledger_clock import LedgerClock
from worker.serving.call_tracker import Call, Wire
from worker.serving.endpoints import Endpoints
from worker.serving.event_loop import EventLoop, is_done
from worker.serving.heartbeat import Heartbeat
from worker.serving.held_pairs import HeldPairs
from worker.serving.in_flight import InFlight
from worker.serving.intake import Intake
from worker.serving.isolation import Isolation
from worker.serving.outages import Outages
from worker.serving.recorder import Entry, Recorder
from worker.serving.slots import Slots
from worker.serving.uploads import Uploads
from worker.telemetry import journal

# The end of the grace period, in which no call is waited for: to record what is unfinished.
FINAL_RECORD_S = 3.0

# While stopping, how often it checks whether `hurry` was called: a signal handler can only set a flag.
HURRY_CHECK_S = 0.1

T = TypeVar("T")
OnRecorded = Callable[[Sequence[Outcome], Recorded], None]


class Engine:
    """One per process. `start`, `stop`, `hurry`, `ask` and `begin` may be called from any thread; the rest belongs to
    the event loop.

    It is also what a turn sees of its process (`tasks.turn.Surroundings`).
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        policy: Policy,
        on_recorded: OnRecorded,
        on_unopened: Callable[[Unopened], None],
        now: LedgerClock,
        witnessed: Callable[[UUID], int] = lambda line: 0,
    ) -> None:
        """``on_recorded`` is called with what was committed, ``on_unopened`` with jobs whose encryption kept them from
        beginning. ``witnessed``: as for `Heartbeat`.
        """
        self.settings, self.policy, self.now = settings, policy, now
        self.chance: Callable[[], float] = random.random
        self.turn_time: Micros = clock.seconds(settings.turn_s)
        self.metadata_key: str = settings.metadata_key
        self.slots = Slots(settings.concurrency, slow_each=settings.slow_calls)
        self.client: NylasClient  # made on the loop, where its connections live
        self._endpoints = Endpoints(settings)
        self._uploads = Uploads(ledger, settings.vault)
        self.loop = EventLoop("sendq-loop", at_end=self._close_client)
        self._wire = Wire(self.loop.asyncio, self.slots, slow_after_s=settings.slow_after_s)
        self._recorder = Recorder(
            ledger,
            now=now,
            on_recorded=on_recorded,
            on_paused=self._pause,
            run_there=self.loop.call_if_open,
            vault=settings.vault,
        )
        self._in_flight = InFlight()
        self.heartbeat = Heartbeat(
            ledger, settings, now=now, load=self._load, in_flight=self._in_flight, witnessed=witnessed
        )
        self.intake = Intake(
            ledger,
            settings,
            self.heartbeat,
            now=now,
            slots=self.slots,
            in_flight=self._in_flight,
            usual=self._wire.usual,
            begin=partial(self.loop.call, self._begin),
            on_unopened=on_unopened,
        )
        self._turns: set[asyncio.Task[None]] = set()
        self._spared: dict[tuple[UUID, int], int] = {}  # slots that turns gave back before they ended
        self._isolation = Isolation(settings)
        self._held_pairs = HeldPairs(now)
        self._outages = Outages(number=settings.escalate_grants, window_s=settings.escalate_window_s)
        self._hurried = False

    # --- lifecycle ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with the ledger and start the heartbeat."""
        self.heartbeat.begin()
        self._recorder.start()
        self.loop.start(self.heartbeat.beat_for_ever())
        journal.worker_started(self.worker_id, capacity=self.slots.capacity)

    def stop(self) -> None:
        """Finish what can be finished in the grace period, record the rest as unknown, and deregister."""
        self.intake.close()
        journal.worker_stopping(self.worker_id, calls=len(self._turns))
        last = time.monotonic() + self.settings.grace_s - FINAL_RECORD_S
        self._wait(self._in_flight.wait_for_claims, last)  # otherwise turns could begin during the steps below
        drained = self.loop.run(self._drain())
        if not self._wait(partial(is_done, drained), last):
            if self._hurried:
                journal.worker_stopping_now(self.worker_id, calls=len(self._turns))
            is_done(self.loop.run(self._break_off()), FINAL_RECORD_S)
        recorded = self._recorder.stop(FINAL_RECORD_S)
        self.loop.stop(FINAL_RECORD_S)
        self._uploads.close()
        if recorded:
            self.heartbeat.end()
        journal.worker_stopped(self.worker_id)

    def hurry(self) -> None:
        """Stop without waiting for the calls on the wire: they are recorded as unknown at once, and repeated with the
        same idempotency keys. May be called by a signal handler, before or while `stop` runs."""
        self._hurried = True

    @property
    def stopping(self) -> bool:
        """Whether it accepts no more turns."""
        return self.intake.closed

    def _wait(self, step: Callable[[float], bool], until: float) -> bool:
        """Wait for ``step(time limit)``, which returns whether it is done. False: ``until`` or `hurry` came first."""
        while not self._hurried and (left := until - time.monotonic()) > 0:
            if step(min(HURRY_CHECK_S, left)):
                return True
        return False

    def _load(self) -> Load:
        return Load(capacity=self.slots.capacity, stopping=self.stopping)

    async def _close_client(self) -> None:
        if hasattr(self, "client"):
            await self.client.close()

    async def _drain(self) -> None:
        """Wait for the calls on the wire to end."""
        if self._turns:
            await asyncio.wait(self._turns)

    async def _break_off(self) -> None:
        """Cancel the calls on the wire: their jobs stay as they are, begun."""
        for task in self._turns:
            task.cancel()
        await self._drain()

    # --- turns --------------------------------------------------------------------------------------------------------

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        self._opened_client()
        for one in claimed:
            self._turns.add(self.loop.asyncio.create_task(self._carry_out(one)))

    async def _carry_out(self, claimed: Claimed) -> None:
        broke_off = False
        try:
            await turn.run(claimed, self)
        except Exception:
            broke_off = True
            journal.bug("turn", lane=str(claimed.lane.id), grant=claimed.lane.grant_id)
        finally:
            self._turns.discard(asyncio.current_task())
            name = (claimed.lane.id, claimed.lane.fence)
            self._in_flight.remove(name, lost=broke_off)
            self.slots.give(claimed.slots - self._spared.pop(name, 0))

    def ask(self, question: Callable[[NylasClient], Coroutine[Any, Any, T]], *, limit_s: float) -> T:
        """Query the API from another thread; the loop makes the call.

        Raises ``TimeoutError`` if there is no answer within the limit.
        """
        return self.begin(question).result(limit_s)

    def begin(self, question: Callable[[NylasClient], Coroutine[Any, Any, T]]) -> Future[T]:
        """Like `ask`, but without waiting for the answer; cancelled when the process ends."""

        async def asked() -> T:
            return await question(self._opened_client())

        return self.loop.run(asked())

    def _opened_client(self) -> NylasClient:
        """The client, created on the loop that its connections belong to."""
        if not hasattr(self, "client"):
            s = self.settings
            self.client = NylasClient(
                limit=0,
                connect_s=s.connect_timeout_s,
                read_s=s.read_timeout_s,
                on_date=self.heartbeat.highest.note_date,
            )
        return self.client

    # --- what a turn sees ---------------------------------------------------------------------------------------------

    @property
    def worker_id(self) -> UUID:
        """The id under which turns are claimed now; it changes after this worker was declared dead."""
        return self.heartbeat.worker_id

    @property
    def key_max_age(self) -> Micros:
        """The age up to which an idempotency key is trusted now."""
        return self.heartbeat.key_max_age

    def application(self, name: str) -> Application:
        """A configured application by its name."""
        return self._endpoints[name]

    def upload(self, job: ClaimedJob) -> Upload:
        """The body of a job whose request has files, read while it is sent."""
        assert job.form is not None
        assert job.length is not None
        return Upload(job.id, job.form, job.body, job.length, self._uploads, job.files)

    def may_call(self, pair: tuple[str, str], offered_at: Micros) -> bool:
        """Whether a turn of this pair that was offered at ``offered_at`` may begin a call now."""
        if self.stopping or not self.heartbeat.lease.holds():
            return False
        return self._held_pairs.allow(pair, offered_at)

    def hold(self, pair: tuple[str, str], scope: str, *, recorded: bool) -> None:
        """Apply a hold to the other turns of this process without a round trip to the ledger."""
        self._held_pairs.hold(pair, scope, recorded=recorded)

    def is_outage(self, application: str, lane_id: UUID) -> bool:
        """Whether a failure of this lane is one of an outage of its application."""
        return self._outages.failed(application, lane_id)

    def succeeded(self, application: str) -> None:
        """A call of the application succeeded."""
        self._outages.succeeded(application)

    def _pause(self, application: str) -> None:
        """Begin no further calls of an application in turns that were offered before now."""
        self._held_pairs.hold((application, WHOLE_APPLICATION), Scope.APPLICATION, recorded=True)

    async def record(
        self, pair: tuple[str, str], outcome: Outcome | None, begins: Collection[Begin], end: End | None
    ) -> Collection[UUID]:
        """Have an outcome committed; returns the jobs that may go on the wire."""
        committed = self.loop.asyncio.create_future()
        self._recorder.put(Entry(pair, outcome, tuple(begins), end, partial(_fulfil, committed)))
        begun: set[UUID] = await committed
        return begun

    async def finish(self, pair: tuple[str, str], end: End) -> None:
        """Have the end of a turn committed."""
        committed = self.loop.asyncio.create_future()
        self._recorder.put(Entry(pair, None, (), end, partial(_fulfil, committed)))
        await committed

    def shrink(self, shrink: Shrink, spare: int) -> None:
        """Let others use the slots that a turn waiting for slow calls no longer holds."""
        name = (shrink.lane_id, shrink.fence)
        self._spared[name] = self._spared.get(name, 0) + spare
        self.slots.give(spare)
        self._recorder.put(Entry(("", ""), None, (), None, lambda begun: None, shrink))

    @property
    def calls(self) -> int:
        """Calls on the wire now."""
        return self._wire.calls

    @property
    def unrecorded(self) -> int:
        """Entries (outcomes, ends of turns) that are not yet committed."""
        return self._recorder.waiting

    def alone(self, provider: str, job: ClaimedJob) -> AbstractAsyncContextManager[NylasClient]:
        """A client whose single call is made by a separate process (`worker.serving.isolation`)."""
        return self._isolation.alone(provider, job)

    def on_the_wire(self, provider: str, slow: Callable[[], None]) -> Call:
        """Count a call while it lasts (`worker.serving.call_tracker`)."""
        return self._wire.call(provider, slow)

    def bug(self, job_id: UUID, grant_id: str) -> None:
        """Log the unexpected exception that is being handled."""
        journal.bug("attempt", job=str(job_id), grant=grant_id)


def _fulfil(committed: asyncio.Future[set[UUID]], begun: set[UUID]) -> None:
    if not committed.done():
        committed.set_result(begun)
