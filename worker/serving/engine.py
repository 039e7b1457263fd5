"""The engine: what carries out turns in one worker process.

    Celery's threads ── take_on(turns): wait for room, claim, load ──▶ one event loop ── calls, decisions ──▶ recorder
                                                                            │
                                                                     a beat every 2 s

The loop beats, so a loop that hangs is a worker that is dead. The Celery task returns as soon as its turns are on the
loop; how much this process does at once is counted in calls (`worker.serving.slots`).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Engine as Ledger
from sqlalchemy import exc

import sendq
from sendq import clock
from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.facts.jobs import ClaimedJob
from sendq.facts.outcomes import Outcome
from sendq.facts.turns import Begin, Claimed, End, Recorded, Shrink
from sendq.ids import new_id
from sendq.ledger import sealed
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import lineage, rescue, workers
from sendq.ledger.dispatching.lanes import NEVER
from sendq.ledger.dispatching.lineage import Standing
from sendq.ledger.dispatching.offers import give_back
from sendq.ledger.dispatching.turns import claim
from sendq.ledger.dispatching.workers import Load
from sendq.ledger.enqueue import notify
from sendq.rules.preflight import trusted_age
from settings import Settings
from tasks import failpoints, turn
from tasks.calling.isolated import Alone, NoProcess
from tasks.calling.nylas import Application, NylasClient
from tasks.calling.upload import Upload
from tasks.policy.row import Policy
from worker.clocks.high_water import HighWaterMark
from worker.clocks.ledger_clock import LedgerClock
from worker.serving.call_tracker import Call, Wire
from worker.serving.endpoints import Endpoints
from worker.serving.in_flight import InFlight
from worker.serving.lease import Lease
from worker.serving.recorder import Entry, Recorder
from worker.serving.slots import Slots, jobs_to_load
from worker.serving.uploads import Uploads
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# The lease ends this long before a rescuer may call this worker dead: a call may take as long to leave the process.
LEASE_MARGIN_S = 2.0

# A bundle that finds no room for this long is given back, for another worker to take.
ROOM_LIMIT_S = 5.0

# Between the last moment for calls and the end of the grace time: to record what is unfinished.
LAST_WORDS_S = 3.0

# Between two ticks: to whom it matters that the loop turns.
TICK_S = 1.0

# While it stops, it looks this often whether somebody lost patience: a signal's handler can do no more than note it.
PATIENCE_S = 0.1

# Processes for jobs that run alone, at once: each takes 40 MB, and half a second of CPU to start. A worker that dies
# twice with a full house leaves hundreds of such jobs, all innocent but one.
ALONE_MOST = 4

T = TypeVar("T")
Told = Callable[[Sequence[Outcome], Recorded], None]


class Engine:
    """One per process. `take_on` and `stop` may be called from any thread; the rest belongs to the event loop.

    It is also what a turn sees of its process (`tasks.turn.Surroundings`).
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        *,
        policy: Policy,
        told: Told,
        unreadable: Callable[[str, int], None],
        now: LedgerClock,
    ) -> None:
        """``told`` hears of what was recorded; ``unreadable`` of encryption keys by name that some jobs wait for."""
        self.settings, self.policy, self.now = settings, policy, now
        self._unreadable = unreadable
        self.chance: Callable[[], float] = random.random
        self.worker_id = new_id()
        self.turn_time: Micros = clock.seconds(settings.turn_s)
        self.highest = HighWaterMark(now)
        self.metadata_key: str = settings.metadata_key
        self.slots = Slots(settings.concurrency, slow_each=settings.slow_calls)
        self.lease = Lease(settings.stale_after_s - LEASE_MARGIN_S, time.monotonic, now)
        self.client: NylasClient  # made on the loop, where its connections live
        self.ticks: list[Callable[[], None]] = []  # called on the loop every second; before `start` alone to be changed
        self._ledger = ledger
        self._endpoints = Endpoints(settings)
        self._uploads = Uploads(ledger, settings.vault)
        self._loop = _new_loop()
        self._recorder = Recorder(
            ledger, now=now, told=told, run_there=partial(_quietly, self._loop), vault=settings.vault
        )
        self._wire = Wire(self._loop, self.slots, slow_after_s=settings.slow_after_s)
        self._thread = threading.Thread(target=self._run_loop, name="sendq-loop", daemon=True)
        self._turns: set[asyncio.Task[None]] = set()
        self._in_flight = InFlight()
        self._spared: dict[tuple[UUID, int], int] = {}  # slots that turns gave back before their end
        self._clock_is_behind = False
        self._known: Standing | None = None  # the furthest that the ledger has come
        self._places_alone = asyncio.Semaphore(ALONE_MOST)
        self._held: dict[tuple[str, str], Micros] = {}  # turns offered until then begin no further call
        self._stopping = self._hurried = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with the ledger and begin to beat."""
        began = self.lease.begin()
        self._register()
        self.lease.renew(began)
        self._release_sealed()
        self._recorder.start()
        self._thread.start()
        journal.worker_started(self.worker_id, capacity=self.slots.capacity)

    def stop(self) -> None:
        """Finish what can be finished within the grace time, record the rest as unknown, and leave the ledger."""
        self._stopping = True
        journal.worker_stopping(self.worker_id, calls=len(self._turns))
        last = time.monotonic() + self.settings.grace_s - LAST_WORDS_S
        self.slots.close()
        self._wait(self._in_flight.wait_for_claims, last)  # or turns would begin behind the back of what follows
        drained = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
        if not self._wait(partial(_is_over, drained), last):
            if self._hurried:
                journal.worker_stopping_now(self.worker_id, calls=len(self._turns))
            _is_over(asyncio.run_coroutine_threadsafe(self._break_off(), self._loop), LAST_WORDS_S)
        recorded = self._recorder.stop(LAST_WORDS_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LAST_WORDS_S)
        self._uploads.close()
        if recorded:
            try:
                with writing(self._ledger) as connection:
                    rescue.bury(connection, self.worker_id, now=self.now(), died=False, key_max_age=self.key_max_age)
            except (SendqError, exc.SQLAlchemyError):
                pass  # somebody buries it, as if it had died
        journal.worker_stopped(self.worker_id)

    def hurry(self) -> None:
        """Stop without waiting for the calls on the wire: they are recorded as unknown at once, and asked again under
        their keys. May be called by a signal's handler, before or while `stop` runs."""
        self._hurried = True

    @property
    def stopping(self) -> bool:
        """Whether it takes on no more."""
        return self._stopping

    def _wait(self, step: Callable[[float], bool], until: float) -> bool:
        """Wait for a step, which takes a limit and says whether it is done; False: too late, or in a hurry."""
        while not self._hurried and (left := until - time.monotonic()) > 0:
            if step(min(PATIENCE_S, left)):
                return True
        return False

    def _register(self) -> None:
        with writing(self._ledger) as connection:
            self.now.ask(connection)
            workers.register(
                connection,
                self.worker_id,
                name=f"{socket.gethostname()}:{os.getpid()}",
                pid=os.getpid(),
                version=sendq.__version__,
                load=self._load(),
                now=self.now(),
            )
            self._compare(lineage.read(connection))
            notify(connection, at=self.now())  # there is capacity now that was not

    def _release_sealed(self) -> None:
        """Look again at what waits for an encryption key: this worker may have it."""
        after: UUID | None = UUID(int=0)
        while after is not None:
            with writing(self._ledger) as connection:
                after = sealed.release(connection, after=after, now=self.now())

    def _load(self) -> Load:
        return Load(capacity=self.slots.capacity, stopping=self._stopping)

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.create_task(self._beat_for_ever())
        self._loop.create_task(self._tick_for_ever())
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _close(self) -> None:
        if hasattr(self, "client"):
            await self.client.close()
        for task in asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            task.cancel()

    async def _drain(self) -> None:
        """Let the calls on the wire end."""
        if self._turns:
            await asyncio.wait(self._turns)

    async def _break_off(self) -> None:
        """Wait for no call any longer: their jobs are left as they are, begun."""
        for task in self._turns:
            task.cancel()
        await self._drain()

    # --- beats --------------------------------------------------------------------------------------------------------

    async def _beat_for_ever(self) -> None:
        while True:
            try:
                await self._beat()
            except (SendqError, exc.SQLAlchemyError):
                pass  # the lease runs out by itself
            except Exception:  # without beats this process would take turns from the broker and give them back for ever
                journal.bug("beat")
            await asyncio.sleep(self.settings.beat_interval_s)

    async def _tick_for_ever(self) -> None:
        while True:
            for tick in self.ticks:
                try:
                    tick()
                except Exception:
                    journal.bug("tick")
            await asyncio.sleep(TICK_S)

    async def _beat(self) -> None:
        """Ordered by the loop, written by a thread: a loop that hangs beats no more."""
        began = self.lease.begin()
        if await asyncio.to_thread(self._write_beat):
            self.lease.renew(began)
        else:
            await self._be_reborn()
        if self._in_flight.take_lost():
            try:
                await asyncio.to_thread(self._take_back_strays)
            except BaseException:
                self._in_flight.lose()
                raise

    def _write_beat(self) -> bool:
        with writing(self._ledger) as connection:
            self.now.ask(connection)
            lives = workers.beat(connection, self.worker_id, load=self._load(), now=self.now())
            lineage.see(connection, self.highest())
            self._compare(found := lineage.read(connection))
            if self._has_lost(found):
                lineage.shut(connection, known_until=found.renewed_at, now=self.now())
        return lives

    def _compare(self, found: Standing) -> None:
        """Take in how far the ledger has come; time that it has seen, this process has seen too."""
        was_behind = self._clock_is_behind
        self.highest.note(found.highest_at)
        self._clock_is_behind = self.highest.clock_is_behind
        if self._clock_is_behind and not was_behind:
            journal.clock_behind(self.worker_id, behind_s=(self.highest() - self.now()) / clock.SECOND)
            alert("clock_behind", "highest_time", level="error", worker=str(self.worker_id))
        if not self._has_lost(found):
            self._known = found

    def _has_lost(self, found: Standing) -> bool:
        """Whether the ledger knows less than it did when this process looked last."""
        return self._known is not None and found.has_lost(self._known.line, self._known.renewals)

    def _is_whole(self, found: Standing) -> bool:
        """Whether turns may be claimed."""
        return found.shut_at is None and not self._has_lost(found)

    def _take_back_strays(self) -> None:
        with writing(self._ledger) as connection:
            strays = rescue.take_back_strays(
                connection, self.worker_id, in_flight=self._in_flight, now=self.now(), key_max_age=self.key_max_age
            )
            if strays:
                notify(connection, at=self.now())
        if strays:
            journal.lost_turns_returned(strays)

    async def _be_reborn(self) -> None:
        """Taken for dead: what was begun goes on and its facts count, but new turns are claimed under a new name.

        If the ledger cannot be told that name, the next beat finds nobody of it, and comes here again.
        """
        self.lease.lose()
        old, self.worker_id = self.worker_id, new_id()
        journal.worker_registered_again(old, self.worker_id)
        await asyncio.to_thread(self._register)

    # --- turns --------------------------------------------------------------------------------------------------------

    def take_on(self, turns: Sequence[tuple[UUID, int, int]]) -> int:
        """Claim some turns (lane, fence, slots) and put them on the loop; gives how many were ours.

        Called in a thread of Celery's, which it holds only until the turns are on the loop.
        """
        wanted = sum(slots for _, _, slots in turns)
        names = [(lane, fence) for lane, fence, _ in turns]
        if not self.lease.holds() or not self.slots.take(wanted, limit_s=ROOM_LIMIT_S):
            self._give_back(names)
            return 0
        taken = 0
        try:
            with self._in_flight.claiming(names):
                # Asked again, and now: much can have happened while there was no room.
                if self._stopping or not self.lease.holds():
                    self._give_back(names)
                    return 0
                claimed = self._claim(names, slots_each=max((slots for _, _, slots in turns), default=1))
                failpoints.reached("claimed")
                for operation in {operation for one in claimed for operation in one.foreign}:
                    journal.newer_version("operation", operation)
                if len(claimed) < len(names):
                    # Their messages came again, or late. One whose claim was lost has looked as if it were in hand.
                    self._in_flight.lose()
                self._in_flight.keep((one.lane.id, one.lane.fence) for one in claimed)
                self._loop.call_soon_threadsafe(self._begin, claimed)
            taken = sum(one.slots for one in claimed)
            return len(claimed)
        except BaseException:
            self._in_flight.lose()  # the claim may be committed all the same
            raise
        finally:
            self.slots.give(wanted - taken)

    def _give_back(self, names: Sequence[tuple[UUID, int]]) -> None:
        with writing(self._ledger) as connection:
            notify(connection, at=give_back(connection, names, now=self.now()))

    def _claim(self, names: Sequence[tuple[UUID, int]], *, slots_each: int) -> list[Claimed]:
        fit = self._wire.usual.fit_into(self.settings.turn_s)
        unreadable: Counter[str] = Counter()
        with writing(self._ledger) as connection:
            claimed = claim(
                connection,
                names,
                worker=self.worker_id,
                now=self.now(),
                jobs_each=jobs_to_load(fit, slots=slots_each, most=self.settings.turn_jobs),
                key_max_age=self.key_max_age,
                vault=self.settings.vault,
                unreadable=unreadable,
                is_whole=self._is_whole,
            )
            failpoints.reached("claiming")
        for name, jobs in unreadable.items():
            self._unreadable(name, jobs)
        return claimed

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        self._opened_client()
        for one in claimed:
            task = self._loop.create_task(self._carry_out(one))
            self._turns.add(task)
            task.add_done_callback(self._turns.discard)

    async def _carry_out(self, claimed: Claimed) -> None:
        broke_off = False
        try:
            await turn.run(claimed, self)
        except Exception:
            broke_off = True
            journal.bug("turn", lane=str(claimed.lane.id), grant=claimed.lane.grant_id)
        finally:
            name = (claimed.lane.id, claimed.lane.fence)
            self._in_flight.let_go(name, lost=broke_off)
            self.slots.give(claimed.slots - self._spared.pop(name, 0))

    def ask(self, question: Callable[[NylasClient], Coroutine[Any, Any, T]], *, limit_s: float) -> T:
        """Put a question to the API from another thread; the loop makes the call.

        Raises ``TimeoutError`` if there was no answer within the limit.
        """
        return self.begin(question).result(limit_s)

    def begin(self, question: Callable[[NylasClient], Coroutine[Any, Any, T]]) -> Future[T]:
        """The same without waiting for the answer; a process that ends cancels it."""

        async def asked() -> T:
            return await question(self._opened_client())

        return asyncio.run_coroutine_threadsafe(asked(), self._loop)

    def _opened_client(self) -> NylasClient:
        """The client, made on the loop that its connections belong to."""
        if not hasattr(self, "client"):
            s = self.settings
            self.client = NylasClient(
                limit=0, connect_s=s.connect_timeout_s, read_s=s.read_timeout_s, told_date=self.highest.said
            )
        return self.client

    # --- what a turn sees ---------------------------------------------------------------------------------------------

    @property
    def key_max_age(self) -> Micros:
        """The age up to which an idempotency key is trusted now."""
        return trusted_age(clock.seconds(self.settings.key_max_age_s), now=self.now(), highest=self.highest())

    def application(self, name: str) -> Application:
        """A configured application by its name."""
        return self._endpoints[name]

    def upload(self, job: ClaimedJob) -> Upload:
        """The body of a job whose request has files, read while it is sent."""
        assert job.form is not None
        assert job.length is not None
        return Upload(job.id, job.form, job.body, job.length, self._uploads)

    def may_call(self, pair: tuple[str, str], offered_at: Micros) -> bool:
        """Whether a turn of this pair that was offered then may begin a call now."""
        if self._stopping or not self.lease.holds():
            return False
        if not self._held:
            return True
        application, _ = pair
        return all(self._held.get(scope, 0) < offered_at for scope in ((application, "*"), pair))

    def hold(self, pair: tuple[str, str], scope: str, *, recorded: bool) -> None:
        """The other turns of this process need not ask to learn what one answer said."""
        application, _ = pair
        self._held[pair if scope == "provider" else (application, "*")] = self.now() if recorded else NEVER

    async def record(
        self, pair: tuple[str, str], outcome: Outcome | None, begins: Collection[Begin], end: End | None
    ) -> Collection[UUID]:
        """Have an outcome committed; gives the jobs that may go on the wire."""
        committed = self._loop.create_future()
        self._recorder.put(Entry(pair, outcome, tuple(begins), end, partial(_fulfil, committed)))
        begun: set[UUID] = await committed
        return begun

    async def finish(self, pair: tuple[str, str], end: End) -> None:
        """Have the end of a turn committed."""
        committed = self._loop.create_future()
        self._recorder.put(Entry(pair, None, (), end, partial(_fulfil, committed)))
        await committed

    def shrink(self, shrink: Shrink, spare: int) -> None:
        """Others may use what a turn that waits for slow calls holds no more."""
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
        """Outcomes and ends of turns that wait for the ledger."""
        return self._recorder.waiting

    @asynccontextmanager
    async def alone(self, provider: str, job: ClaimedJob) -> AsyncIterator[Alone]:
        """A client whose one call is made by a process of its own."""
        s = self.settings
        async with self._places_alone:
            try:
                async with Alone(
                    job, provider=provider, connect_s=s.connect_timeout_s, read_s=s.read_timeout_s
                ) as child:
                    yield child
            except NoProcess as error:
                journal.process_not_started(error)
                raise

    def on_the_wire(self, provider: str, slow: Callable[[], None]) -> Call:
        """Count a call while it lasts (`worker.serving.call_tracker`)."""
        return self._wire.call(provider, slow)

    def bug(self, job_id: UUID, grant_id: str) -> None:
        """An exception that should not have been is being handled."""
        journal.bug("attempt", job=str(job_id), grant=grant_id)


def _fulfil(committed: asyncio.Future[set[UUID]], begun: set[UUID]) -> None:
    if not committed.done():
        committed.set_result(begun)


def _quietly(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> None:
    """Hand something to a loop that may be closed by now."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args)


def _is_over(future: Future[None], limit_s: float) -> bool:
    """Whether it ends within the limit; a loop that hangs ends nothing."""
    try:
        future.result(limit_s)
    except TimeoutError:
        return False
    return True


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one: half the CPU of asyncio's own."""
    loop: asyncio.AbstractEventLoop
    try:
        import uvloop

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    # Its own handler would show the exception's words, and tasks by what they hold.
    loop.set_exception_handler(lambda _, context: journal.unhandled_exception(context.get("exception")))
    return loop
