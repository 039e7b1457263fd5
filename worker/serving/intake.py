"""The intake: takes slots for the turns of a bundle, claims them, and puts them on the event loop.

Bundles from the broker are claimed by Celery's threads, which wait for free slots. In the leader, the dispatcher hands
over what fits into slots that are free right now, and threads of the intake's own claim it: a claim may wait for a lock
of the ledger, for which the dispatcher must not. Either way the turns are claimed by compare and set, and what is lost
on the way is offered again (`worker.leading.rescuer`). A few turns of plain jobs are not handed over at all: they are
claimed in the dispatcher's own transaction, which saves a commit and several statements for a job that comes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy import Engine as Ledger

from sendq.clock import Clock
from sendq.facts.lanes import Lane
from sendq.facts.turns import Claimed, Unopened
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching.offers import give_back
from sendq.ledger.dispatching.turns import claim, claim_at_once
from sendq.ledger.enqueue import notify
from settings import Settings
from tasks import failpoints
from worker.serving.heartbeat import Heartbeat
from worker.serving.in_flight import InFlight
from worker.serving.slots import Slots, Usual, jobs_to_load
from worker.telemetry import journal

# A bundle for which no slots become free within this time is given back, for another worker to take.
ROOM_LIMIT_S = 5.0

# Threads that claim bundles of the own dispatcher; each may hold a connection to the ledger.
CLAIMERS = 4

# Slots that the leader's process may use beyond its share of all that are in use. With a few jobs at a time the broker
# would cost more than the balance is worth.
HEAD_START = 5

Name = tuple[UUID, int, int]  # a turn: lane, fence, slots


class Intake:
    """One per process; thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        heartbeat: Heartbeat,
        *,
        now: Clock,
        slots: Slots,
        in_flight: InFlight,
        usual: Usual,
        begin: Callable[[Sequence[Claimed]], None],
        on_unopened: Callable[[Unopened], None],
    ) -> None:
        """``begin`` puts claimed turns on the event loop; ``on_unopened`` is told of jobs that could not be opened."""
        self._ledger, self._settings, self._heartbeat, self._now = ledger, settings, heartbeat, now
        self._slots, self._in_flight, self._usual = slots, in_flight, usual
        self._begin, self._on_unopened = begin, on_unopened
        self._claimers = ThreadPoolExecutor(CLAIMERS, "sendq-claimer")
        self._closed = False

    def close(self) -> None:
        """Accept no more turns; those that wait for free slots are given back."""
        self._closed = True
        self._slots.close()
        self._claimers.shutdown(wait=False)

    @property
    def closed(self) -> bool:
        """Whether it accepts no more turns."""
        return self._closed

    def take_on(self, turns: Sequence[Name]) -> int:
        """Claim turns as soon as there is room, and put them on the loop; returns how many were claimed."""
        if self._heartbeat.lease.holds() and self._slots.take(_slots_of(turns), limit_s=ROOM_LIMIT_S):
            return self._claim_and_begin(turns)
        self._give_back(turns)
        return 0

    def take_on_soon(self, turns: Sequence[Name], *, busy: float) -> bool:
        """Have turns claimed by another thread, if there is room now and it leaves this process no busier than all
        workers together: ``busy`` is the share of all their slots that is in use.
        """
        wanted = _slots_of(turns)
        if not self._take_share(wanted, busy):
            return False
        try:
            self._claimers.submit(self._claim_soon, turns)
        except RuntimeError:  # closed just now
            self._slots.give(wanted)
            return False
        return True

    def claim_at_once(
        self, connection: Connection, offered: Sequence[Lane], busy: float, until_over: ExitStack
    ) -> Callable[[], None] | None:
        """Claim turns in the transaction that offers them, under the conditions of `take_on_soon`.

        Returns what puts them on the loop, to be called after the commit, or None if they are left to others.
        ``until_over`` is closed after that, or when the transaction failed. Raises `OperationalError` of SQLAlchemy if
        another transaction has locked one of the jobs.
        """
        wanted = sum(lane.turn_slots for lane in offered)
        if self._closed or not self._take_share(wanted, busy):
            return None
        taken = 0
        until_over.callback(lambda: self._slots.give(wanted - taken))
        until_over.push(self._check_if_failed)
        names = [(lane.id, lane.fence) for lane in offered]
        until_over.enter_context(self._in_flight.claiming(names))
        if not self._may_claim():
            return None
        fit = self._usual.fit_into(self._settings.turn_s)
        slots_each = max(lane.turn_slots for lane in offered)
        claimed = claim_at_once(
            connection,
            offered,
            worker=self._heartbeat.worker_id,
            now=self._now(),
            jobs_each=jobs_to_load(fit, slots=slots_each, most=self._settings.turn_jobs),
            key_max_age=self._heartbeat.key_max_age,
            vault=self._settings.vault,
            budgets=self._settings.send_budgets,
            is_whole=self._heartbeat.whole_since(),
        )
        if not claimed:
            return None
        failpoints.reached("claiming")

        def begin() -> None:
            nonlocal taken
            failpoints.reached("claimed")
            self._keep_and_begin(claimed)
            taken = sum(one.slots for one in claimed)

        return begin

    def _check_if_failed(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the claim may have been committed nevertheless
            self._in_flight.request_check()

    def _take_share(self, wanted: int, busy: float) -> bool:
        """Take slots, if they are free and that leaves this process no busier than all workers together."""
        share = busy * self._slots.capacity
        if self._slots.used + wanted > share + HEAD_START or not self._heartbeat.lease.holds():
            return False
        return self._slots.take(wanted, limit_s=0)

    def _claim_soon(self, turns: Sequence[Name]) -> None:
        try:
            self._claim_and_begin(turns)
        except Exception as error:  # the turns are taken back, as unclaimed or as strays
            journal.claim_failed(error, turns=len(turns))

    def _claim_and_begin(self, turns: Sequence[Name]) -> int:
        """Claim turns for which slots are taken, and put them on the loop; the other slots are given back."""
        names = [(lane, fence) for lane, fence, _ in turns]
        taken = 0
        try:
            with self._in_flight.claiming(names):
                if not self._may_claim():
                    self._give_back(turns)
                    return 0
                claimed = self._claim(names, slots_each=max((slots for _, _, slots in turns), default=1))
                failpoints.reached("claimed")
                for operation in {operation for one in claimed for operation in one.foreign}:
                    journal.newer_version("operation", operation)
                if len(claimed) < len(names):
                    # Their messages came twice or late. Or an earlier claim was lost, and a check missed it because the
                    # turn was in the register just now.
                    self._in_flight.request_check()
                self._keep_and_begin(claimed)
            taken = sum(one.slots for one in claimed)
            return len(claimed)
        except BaseException:
            self._in_flight.request_check()  # the claim may have been committed nevertheless
            raise
        finally:
            self._slots.give(_slots_of(turns) - taken)

    def _may_claim(self) -> bool:
        """Checked again once the turns are in the register: the wait for slots may have been long, and a stop waits
        only for the claims that it finds there.
        """
        return not self._closed and self._heartbeat.lease.holds()

    def _keep_and_begin(self, claimed: Sequence[Claimed]) -> None:
        """Put claimed turns on the loop; each stays in the register until it is over."""
        names = [(one.lane.id, one.lane.fence) for one in claimed]
        self._in_flight.keep(names)
        try:
            self._begin(claimed)
        except BaseException:  # none of them is on the loop
            for name in names:
                self._in_flight.remove(name, lost=True)
            raise

    def _give_back(self, turns: Sequence[Name]) -> None:
        names = [(lane, fence) for lane, fence, _ in turns]
        with writing(self._ledger) as connection:
            notify(connection, at=give_back(connection, names, now=self._now()))

    def _claim(self, names: Sequence[tuple[UUID, int]], *, slots_each: int) -> list[Claimed]:
        settings = self._settings
        fit = self._usual.fit_into(settings.turn_s)
        unopened = Unopened()
        is_whole = self._heartbeat.whole_since()
        with writing(self._ledger) as connection:
            claimed = claim(
                connection,
                names,
                worker=self._heartbeat.worker_id,
                now=self._now(),
                jobs_each=jobs_to_load(fit, slots=slots_each, most=settings.turn_jobs),
                key_max_age=self._heartbeat.key_max_age,
                vault=settings.vault,
                unopened=unopened,
                budgets=settings.send_budgets,
                is_whole=is_whole,
            )
            failpoints.reached("claiming")
        if unopened:
            self._on_unopened(unopened)
        return claimed


def _slots_of(turns: Sequence[Name]) -> int:
    return sum(slots for _, _, slots in turns)
