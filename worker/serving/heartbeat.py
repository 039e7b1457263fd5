"""A worker's entry in the ledger: it registers, beats every few seconds, and registers again if it was declared dead.

With each beat it reads the ledger's lineage (how often the lead was renewed) and its time (`worker.clocks`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from sqlalchemy import Engine as Ledger
from sqlalchemy import exc

import sendq
from sendq import clock
from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.facts.outcomes import Outcome
from sendq.ids import new_id
from sendq.ledger import sealed
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching import broker, lineage, rescue, workers
from sendq.ledger.dispatching.broker import BrokerTrouble
from sendq.ledger.dispatching.lineage import Incomplete, Standing
from sendq.ledger.dispatching.workers import Load
from sendq.ledger.enqueue import notify
from sendq.ledger.operators import recover
from sendq.rules.preflight import trusted_age
from settings import Settings
from worker.clocks.high_water import HighWaterMark
from worker.clocks.ledger_clock import LedgerClock
from worker.serving.in_flight import InFlight
from worker.serving.key_moves import KeyMoves
from worker.serving.lease import Lease
from worker.telemetry import journal
from worker.telemetry.alerts import alert

# The lease ends this long before a rescuer may declare this worker dead: the time a call may need to leave the process.
LEASE_MARGIN_S = 2.0

# If that is more, the margin is this share of the time after which it counts as dead: else no lease would be left.
MARGIN_SHARE = 0.25


def lease_s(stale_after_s: float) -> float:
    """How long a beat gives the right to make calls, in seconds."""
    return stale_after_s - min(LEASE_MARGIN_S, stale_after_s * MARGIN_SHARE)


class Heartbeat:
    """One per process. `beat_for_ever` belongs to the event loop; the rest may be called from any thread."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        *,
        now: LedgerClock,
        load: Callable[[], Load],
        in_flight: InFlight,
        witnessed: Callable[[UUID], int],
    ) -> None:
        """``load``: what this worker can take on, written with each beat.

        ``witnessed``: how many renewals of a lineage are known outside of the ledger. A worker that has just started
        asks once: a message in the broker may be from before the ledger was restored.
        """
        self._ledger, self._settings, self._now = ledger, settings, now
        self._load, self._in_flight = load, in_flight
        self.worker_id = new_id()
        self.lease = Lease(lease_s(settings.stale_after_s), time.monotonic, now)
        self.highest = HighWaterMark(now)
        self._clock_is_behind = False
        self._witnessed = witnessed
        self._moves = KeyMoves(settings.key_max_age_s)
        self._reported_at: Micros | None = None  # the stop for which the moves have been reported
        self.trouble = BrokerTrouble(None, None, None)  # with the broker, as of the last heartbeat
        self._known: tuple[UUID | None, int] | None = None  # the line and renewals of the latest state that was seen

    @property
    def key_max_age(self) -> Micros:
        """The age up to which an idempotency key is trusted now."""
        return trusted_age(clock.seconds(self._settings.key_max_age_s), now=self._now(), highest=self.highest())

    def whole_since(self) -> Callable[[Standing], bool]:
        """For a claim that begins now: whether the ledger is not shut and has lost nothing that was seen before it."""
        known = self._known
        return lambda found: found.may_be_claimed and not (known is not None and found.has_lost(*known))

    def note_moves(self, outcomes: Iterable[Outcome]) -> None:
        """Remember which jobs have been given a new idempotency key, in case the ledger loses that."""
        self._moves.note(outcomes)

    def begin(self) -> None:
        """Register with the ledger. From now on the lease is valid, until beats fail."""
        began = self.lease.begin()
        self._register()
        self.lease.renew(began)
        self._release_sealed()

    def end(self) -> None:
        """Deregister from the ledger, which takes back at once what this worker has left unfinished."""
        try:
            with writing(self._ledger) as connection:
                rescue.bury(connection, self.worker_id, now=self._now(), died=False, key_max_age=self.key_max_age)
        except (SendqError, exc.SQLAlchemyError):
            pass  # a rescuer does it later, as for a dead worker

    async def beat_for_ever(self) -> None:
        """Beat until the event loop ends."""
        while True:
            try:
                await self._beat()
            except (SendqError, exc.SQLAlchemyError):
                pass  # the lease expires
            except Exception:  # without beats this process would keep taking turns from the broker and giving them back
                journal.bug("beat")
            await asyncio.sleep(self._settings.beat_interval_s)

    async def _beat(self) -> None:
        """Started by the loop and written by a thread, so that the beats stop when the loop hangs."""
        began = self.lease.begin()
        if await asyncio.to_thread(self._write_beat):
            self.lease.renew(began)
        else:
            await self._register_again()
        if self._in_flight.take_check_request():
            try:
                await asyncio.to_thread(self._take_back_lost_turns)
            except BaseException:
                self._in_flight.request_check()
                raise

    def _write_beat(self) -> bool:
        with writing(self._ledger) as connection:
            self._now.ask(connection)
            lives = workers.beat(connection, self.worker_id, load=self._load(), now=self._now())
            lineage.see(connection, self.highest())
            self.trouble = broker.read(connection)
            self._compare(found := lineage.read(connection))
            if self._has_lost(found):
                lineage.shut(connection, because=Incomplete.LOST, lost_since=found.complete_at, now=self._now())
        self._report_moves(found)
        return lives

    def _report_moves(self, found: Standing) -> None:
        """Report to a ledger that is shut which jobs were given a new key, once for each stop.

        In a transaction after the beat's: that one locks the leader's row, which a repair locks after its jobs.
        """
        if found.shut_at is None or found.shut_at == self._reported_at:
            return
        with writing(self._ledger) as connection:
            recover.keep_generations(connection, self._moves.recent())
        self._reported_at = found.shut_at

    async def _register_again(self) -> None:
        """Declared dead: begun calls continue and their outcomes count, but new turns are claimed under a new id.

        If the ledger cannot be reached, the next beat finds no worker with this id and tries again.
        """
        self.lease.lose()
        old, self.worker_id = self.worker_id, new_id()
        journal.worker_registered_again(old, self.worker_id)
        await asyncio.to_thread(self._register)

    def _register(self) -> None:
        with writing(self._ledger) as connection:
            self._now.ask(connection)
            workers.register(
                connection,
                self.worker_id,
                name=f"{socket.gethostname()}:{os.getpid()}",
                pid=os.getpid(),
                version=sendq.__version__,
                load=self._load(),
                now=self._now(),
                stale_after=clock.seconds(self._settings.stale_after_s),
            )
            found = lineage.read(connection)
            if self._known is None and found.line is not None:
                self._known = (found.line, self._witnessed(found.line))
            self._compare(found)
            notify(connection, at=self._now())  # there is new capacity

    def _release_sealed(self) -> None:
        """Release the jobs that wait for an encryption key: this worker may have it."""
        after: UUID | None = UUID(int=0)
        while after is not None:
            with writing(self._ledger) as connection:
                after = sealed.release(connection, after=after, now=self._now())

    def _take_back_lost_turns(self) -> None:
        """Close the turns that are in this process according to the ledger, but are not."""
        with writing(self._ledger) as connection:
            lost = rescue.take_back_strays(
                connection, self.worker_id, in_flight=self._in_flight, now=self._now(), key_max_age=self.key_max_age
            )
            if lost:
                notify(connection, at=self._now())
        if lost:
            journal.lost_turns_returned(lost)

    def _compare(self, found: Standing) -> None:
        """Keep the lineage that was read, and raise this process's high-water mark to the ledger's latest time."""
        was_behind = self._clock_is_behind
        self.highest.note(found.highest_at)
        self._clock_is_behind = self.highest.clock_is_behind
        if self._clock_is_behind and not was_behind:
            journal.clock_behind(self.worker_id, behind_s=(self.highest() - self._now()) / clock.SECOND)
            alert("clock_behind", "highest_time", level="error", worker=str(self.worker_id))
        if self._has_lost(found):
            return
        if self._known is not None and self._known[0] != found.line:
            self._in_flight.request_check()  # recovered: turns that ended here may be open again in the ledger
        self._known = (found.line, found.renewals)

    def _has_lost(self, found: Standing) -> bool:
        """Whether the ledger has lost something since this process last read it."""
        return self._known is not None and found.has_lost(*self._known)
