"""The deliverer: tells outcomes to whoever wants to know, in the process that leads.

    the ledger ── receivers with something due ──▶ one task for each on an event loop ── tries ──▶ the ledger

Receivers do not see each other: each has a task of its own, a few tries at once and its own pauses
(`sendq.ledger.deliveries`), so one that hangs holds up itself alone. The loop and its thread are apart from those that
make calls to the API: neither waits for the other.

Every outcome is told at least once: it stays due until the receiver's answer is in the ledger, and whoever leads next
begins there.
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
from sendq.ledger.deliveries import Receiver, Tried
from settings import Settings
from tasks.policy.row import Policy
from worker.notifying.notification import Telling
from worker.notifying.receivers import CALLS_EACH, Receivers
from worker.processes.periodic_loop import until_next
from worker.telemetry import journal
from worker.telemetry.alerts import alert

T = TypeVar("T")

# An outcome is told within about this long. Looking costs an index probe or two.
LOOK_EVERY_S = 1.0

# Deliveries of one turn: so many may be told again if this process dies.
TURN_MOST = 50
# A turn begins no further one after this long, so that what was told is soon written down.
TURN_S = 2.0


class Deliverer:
    """Every process has one; that of the leader acts. ``start`` and ``stop`` are called from outside, the rest runs on
    its own loop.
    """

    def __init__(
        self, ledger: Engine, settings: Settings, *, policy: Policy, leads: Callable[[], bool], now: clock.Clock
    ) -> None:
        self._ledger, self._leads, self._now = ledger, leads, now
        self._settings, self._telling = settings, Telling(settings, policy)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.looks = 0
        self._queries = ThreadPoolExecutor(1, thread_name_prefix="sendq-deliveries")  # one connection, whatever happens
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sendq-deliverer", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()
        self._running.wait()

    def stop(self, limit_s: float) -> None:
        """Tell no more. What is under way has until the limit; what takes longer is told again by the next leader."""
        self._limit_s = limit_s
        with suppress(RuntimeError):  # its loop is closed: it ended by itself
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
        self._receivers = Receivers(self._settings, self._telling)
        try:
            while not self._stopping.is_set():
                try:
                    await self.look()
                except (SendqError, exc.SQLAlchemyError):
                    pass  # the ledger is away; the dispatcher says so already
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

    async def look(self) -> None:
        """Serve every receiver that has something due and is not served already."""
        self.looks += 1
        if not self._leads():
            return
        for receiver in await self._ask(lambda connection: deliveries.receivers(connection, now=self._now())):
            if receiver.name not in self._busy:
                self._busy[receiver.name] = asyncio.create_task(self._serve(receiver))

    async def _serve(self, receiver: Receiver) -> None:
        """Turn after turn, as long as deliveries are due and the receiver takes them in."""
        try:
            limit = 1 if receiver.failing else TURN_MOST
            while self._leads() and not self._stopping.is_set():
                due = await self._due(receiver.name, limit)
                if not due or not await self._turn(receiver.name, due):
                    return
                limit = TURN_MOST
        except (SendqError, exc.SQLAlchemyError):
            pass  # what was told and could not be written down is told again
        except Exception:
            journal.bug("deliverer")
        finally:
            del self._busy[receiver.name]

    async def _turn(self, name: str, due: Sequence[Row[Any]]) -> bool:
        """Make these deliveries, a few at once; whether the receiver can be told more."""
        waiting, tried = list(reversed(due)), list[Tried]()
        ends_at = time.monotonic() + TURN_S

        async def some() -> None:
            while waiting and time.monotonic() < ends_at and not _is_hopeless(tried):
                if self._stopping.is_set():
                    return
                tried.append(await self._tell(waiting.pop()))

        await asyncio.gather(*(some() for _ in range(min(CALLS_EACH, len(due)))))
        if not tried:
            return False
        told = await self._change(lambda connection: deliveries.record(connection, name, tried, now=self._now()))
        _say(name, tried, told)
        return told.held_until is None

    async def _tell(self, row: Row[Any]) -> Tried:
        try:
            return await self._receivers.deliver(row)
        except Exception:
            journal.bug("deliverer", delivery=str(row.id))
            return Tried(row.id, "it could not be told; the worker's log says more")

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


def _is_hopeless(tried: Sequence[Tried]) -> bool:
    """Whether the receiver fails, and not some of what it is told."""
    last = tried[-deliveries.REFUSALS_IN_A_ROW :]
    in_a_row = len(last) == deliveries.REFUSALS_IN_A_ROW and all(one.error is not None for one in last)
    return in_a_row or any(one.unreachable for one in tried)


def _say(name: str, tried: Sequence[Tried], told: deliveries.Told) -> None:
    for one in tried:
        if one.error is None:
            journal.outcome_delivered(one.delivery_id, name)
        else:
            journal.delivery_failed(one.delivery_id, name, one.error)
    if told.held_until is not None:
        journal.receiver_held(name, told.error, until=told.held_until)
    if told.given_up:
        journal.deliveries_given_up(told.given_up, name)
        alert("deliveries_given_up", "deliveries", level="error", receiver=name)
