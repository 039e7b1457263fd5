"""The intake: waits for free slots, claims the turns of a bundle, and puts them on the event loop.

Runs in Celery's threads, and only until the turns are on the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy import Engine as Ledger

from sendq.clock import Clock
from sendq.facts.turns import Claimed
from sendq.ledger.db.engine import writing
from sendq.ledger.dispatching.offers import give_back
from sendq.ledger.dispatching.turns import claim
from sendq.ledger.enqueue import notify
from settings import Settings
from tasks import failpoints
from worker.serving.heartbeat import Heartbeat
from worker.serving.in_flight import InFlight
from worker.serving.slots import Slots, Usual, jobs_to_load
from worker.telemetry import journal

# A bundle for which no slots become free within this time is given back, for another worker to take.
ROOM_LIMIT_S = 5.0


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
        on_missing_key: Callable[[str, int], None],
    ) -> None:
        """``begin`` puts claimed turns on the event loop.

        ``on_missing_key`` is called with the name of an encryption key that is missing here, and how many jobs need it.
        """
        self._ledger, self._settings, self._heartbeat, self._now = ledger, settings, heartbeat, now
        self._slots, self._in_flight, self._usual = slots, in_flight, usual
        self._begin, self._on_missing_key = begin, on_missing_key
        self._closed = False

    def close(self) -> None:
        """Accept no more turns; those that wait for free slots are given back."""
        self._closed = True
        self._slots.close()

    @property
    def closed(self) -> bool:
        """Whether it accepts no more turns."""
        return self._closed

    def take_on(self, turns: Sequence[tuple[UUID, int, int]]) -> int:
        """Claim turns (lane, fence, slots) and put them on the loop; returns how many were claimed."""
        wanted = sum(slots for _, _, slots in turns)
        names = [(lane, fence) for lane, fence, _ in turns]
        if not self._heartbeat.lease.holds() or not self._slots.take(wanted, limit_s=ROOM_LIMIT_S):
            self._give_back(names)
            return 0
        taken = 0
        try:
            with self._in_flight.claiming(names):
                # Check again: the wait for slots may have been long.
                if self._closed or not self._heartbeat.lease.holds():
                    self._give_back(names)
                    return 0
                claimed = self._claim(names, slots_each=max((slots for _, _, slots in turns), default=1))
                failpoints.reached("claimed")
                for operation in {operation for one in claimed for operation in one.foreign}:
                    journal.newer_version("operation", operation)
                if len(claimed) < len(names):
                    # Their messages came twice or late. Or an earlier claim was lost, and a check missed it because the
                    # turn was in the register just now.
                    self._in_flight.request_check()
                self._in_flight.keep((one.lane.id, one.lane.fence) for one in claimed)
                self._begin(claimed)
            taken = sum(one.slots for one in claimed)
            return len(claimed)
        except BaseException:
            self._in_flight.request_check()  # the claim may have been committed nevertheless
            raise
        finally:
            self._slots.give(wanted - taken)

    def _give_back(self, names: Sequence[tuple[UUID, int]]) -> None:
        with writing(self._ledger) as connection:
            notify(connection, at=give_back(connection, names, now=self._now()))

    def _claim(self, names: Sequence[tuple[UUID, int]], *, slots_each: int) -> list[Claimed]:
        settings = self._settings
        fit = self._usual.fit_into(settings.turn_s)
        unreadable: Counter[str] = Counter()
        with writing(self._ledger) as connection:
            claimed = claim(
                connection,
                names,
                worker=self._heartbeat.worker_id,
                now=self._now(),
                jobs_each=jobs_to_load(fit, slots=slots_each, most=settings.turn_jobs),
                key_max_age=self._heartbeat.key_max_age,
                vault=settings.vault,
                unreadable=unreadable,
                is_whole=self._heartbeat.is_whole,
            )
            failpoints.reached("claiming")
        for name, jobs in unreadable.items():
            self._on_missing_key(name, jobs)
        return claimed
