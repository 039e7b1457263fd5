"""The deliverer: delivers outcomes to their receivers, in the leader.

    the ledger ── receivers with something due ──▶ one task per receiver on an event loop ── results ──▶ the ledger

Receivers are independent: each has its own task, a few attempts at once and its own backoff
(`sendq.ledger.deliveries`), so one that hangs delays only itself. The event loop runs in its own thread, separate from
the one that calls the API.

Delivery is at least once: an outcome stays due until the receiver's answer is in the ledger, where the next leader
continues.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, exc

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger import deliveries
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.deliveries import DeliveryAttempt, Receiver
from settings import Settings
from tasks.policy.row import Policy
from worker.leading.leadership import Leads
from worker.leading.work_poll import WorkPoll
from worker.notifying.notification import Notifications
from worker.notifying.receivers import CALLS_EACH, Receivers
from worker.processes.periodic_loop import latest, until_next
from worker.telemetry import journal
from worker.telemetry.alerts import alert

T = TypeVar("T")

# An outcome is delivered within about this time.
LOOK_EVERY_S = 1.0

# Deliveries per turn: at most this many are repeated if this process dies.
TURN_MOST = 50
# A turn starts no delivery after this long, so that results are recorded soon.
TURN_S = 2.0


class Deliverer:
    """Every process has one; only the leader's is active. ``start`` and ``stop`` are called by the process, the rest
    runs on its own event loop.
    """

    def __init__(
        self,
        ledger: Engine,
        leadership: Leads,
        poll: WorkPoll,
        settings: Settings,
        *,
        policy: Policy,
        now: clock.Clock,
    ) -> None:
        self._ledger, self._leadership, self._poll, self._now = ledger, leadership, poll, now
        self._settings, self._notifications = settings, Notifications(settings, policy)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.looks = 0
        self._queries = ThreadPoolExecutor(1, thread_name_prefix="sendq-deliveries")  # one connection, whatever happens
        self._polls = ThreadPoolExecutor(1, thread_name_prefix="sendq-deliveries-poll")  # may wait for another loop's
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sendq-deliverer", daemon=True)

    def start(self) -> None:
        """Start delivering."""
        self._thread.start()
        self._running.wait()

    def stop(self, limit_s: float) -> None:
        """Stop. Deliveries in progress have ``limit_s`` to finish; the next leader repeats those that do not."""
        self._limit_s = limit_s
        with suppress(RuntimeError):  # its loop is closed: it has already ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(limit_s + 1.0)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            journal.bug("deliverer")

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._running.set()
        self._receivers = Receivers(self._settings, self._notifications)
        try:
            while not self._stopping.is_set():
                try:
                    await self.look(due_at=latest(LOOK_EVERY_S, time.monotonic()))
                except (SendqError, exc.SQLAlchemyError):
                    pass  # the ledger is unavailable; the dispatcher logs it
                except Exception:
                    journal.bug("deliverer")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), until_next(LOOK_EVERY_S, time.monotonic()))
            if self._busy:
                _, late = await asyncio.wait(self._busy.values(), timeout=self._limit_s)
                for task in late:
                    task.cancel()
        finally:
            await self._receivers.close()
            self._queries.shutdown(wait=False)
            self._polls.shutdown(wait=False)

    async def look(self, *, due_at: float | None = None) -> None:
        """Start a task for every receiver that has something due and has none yet.

        ``due_at``: when this look was due (monotonic, seconds); None: now.
        """
        self.looks += 1
        if not self._leadership.leads:
            return
        since = time.monotonic() if due_at is None else due_at
        pending = await asyncio.get_running_loop().run_in_executor(self._polls, self._poll.since, since)
        if not pending.deliveries:
            return
        for receiver in await self._ask(lambda connection: deliveries.receivers(connection, now=self._now())):
            if receiver.name not in self._busy:
                self._busy[receiver.name] = asyncio.create_task(self._serve(receiver))

    async def _serve(self, receiver: Receiver) -> None:
        """Turn after turn, while deliveries are due and the receiver accepts them."""
        try:
            limit = 1 if receiver.failing else TURN_MOST
            while self._leadership.leads and not self._stopping.is_set():
                due = await self._due(receiver.name, limit)
                if not due or not await self._turn(receiver.name, due):
                    return
                limit = TURN_MOST
        except (SendqError, exc.SQLAlchemyError):
            pass  # deliveries that could not be recorded are repeated
        except Exception:
            journal.bug("deliverer")
        finally:
            del self._busy[receiver.name]

    async def _turn(self, name: str, due: Sequence[Row[Any]]) -> bool:
        """Make these deliveries, a few at once; return whether the receiver can get more."""
        waiting, tried = list(reversed(due)), list[DeliveryAttempt]()
        ends_at = time.monotonic() + TURN_S

        async def some() -> None:
            while waiting and time.monotonic() < ends_at and not _is_hopeless(tried):
                if self._stopping.is_set():
                    return
                tried.append(await self._deliver(waiting.pop()))

        await asyncio.gather(*(some() for _ in range(min(CALLS_EACH, len(due)))))
        if not tried:
            return False
        recorded = await self._change(lambda connection: deliveries.record(connection, name, tried, now=self._now()))
        _log(name, tried, recorded)
        return recorded.held_until is None

    async def _deliver(self, row: Row[Any]) -> DeliveryAttempt:
        try:
            return await self._receivers.deliver(row)
        except Exception:
            journal.bug("deliverer", delivery=str(row.id))
            return DeliveryAttempt(row.id, "it could not be delivered; see the worker's log")

    async def _due(self, name: str, limit: int) -> Sequence[Row[Any]]:
        return await self._ask(lambda connection: deliveries.due(connection, name, now=self._now(), limit=limit))

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        def ask() -> T:
            with reading(self._ledger) as connection:
                return question(connection)

        return await asyncio.get_running_loop().run_in_executor(self._queries, ask)

    async def _change(self, change: Callable[[Connection], T]) -> T:
        def make() -> T:
            with writing(self._ledger) as connection:
                return change(connection)

        return await asyncio.get_running_loop().run_in_executor(self._queries, make)


def _is_hopeless(tried: Sequence[DeliveryAttempt]) -> bool:
    """Whether the receiver itself fails, rather than individual deliveries."""
    last = tried[-deliveries.REFUSALS_IN_A_ROW :]
    in_a_row = len(last) == deliveries.REFUSALS_IN_A_ROW and all(one.error is not None for one in last)
    return in_a_row or any(one.unreachable for one in tried)


def _log(name: str, tried: Sequence[DeliveryAttempt], recorded: deliveries.AttemptsRecorded) -> None:
    for one in tried:
        if one.error is None:
            journal.outcome_delivered(one.delivery_id, name)
        else:
            journal.delivery_failed(one.delivery_id, name, one.error)
    if recorded.held_until is not None:
        journal.receiver_held(name, recorded.error, until=recorded.held_until)
    if recorded.given_up:
        journal.deliveries_given_up(recorded.given_up, name)
        alert("deliveries_given_up", "deliveries", level="error", receiver=name)
