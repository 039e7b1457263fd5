"""The rescuer: brings back what dead workers, lost messages and forgotten lanes hold.

Every worker process watches the others' beats; only the one that leads acts. A worker is stale when its count of beats
has stood still for a while on this process's monotonic clock, and only time in which this process could itself reach
the ledger counts: after an outage of the ledger everybody gets to speak first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger import rescue, workers
from sendq.ledger.engine import reading, writing
from tasks import stops
from worker import journal
from worker.rounds import Rounds

ROUND_S = 1.0

# More between two looks does not count as silence: this process was away itself (suspended, or without a ledger).
LOOK_MOST_S = 2.0

EXPIRE_MOST = 500

# The net under all wake rows goes round slowly: what it finds should never be there.
SWEEP_EVERY_S = 30.0
SWEEP_MOST = 1_000

# A begun job whose turn is over is nobody's after this long; an outcome that is being recorded is quicker.
ORPHAN_AGE = clock.seconds(60)

_FIRST = UUID(int=0)


@dataclass(slots=True)
class _Watched:
    beats: int
    silent_s: float = 0.0


class Rescuer(Rounds):
    """Every process has one; that of the leader acts."""

    def __init__(
        self,
        ledger: Engine,
        *,
        leads: Callable[[], bool],
        now: clock.Clock,
        stale_after_s: float,
        unclaimed_after_s: float,
        key_max_age: Callable[[], clock.Micros],
        serves: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``key_max_age``: the age up to which keys are trusted now. ``serves``: leads a ledger that is whole."""
        super().__init__("rescuer", every_s=ROUND_S)
        self._ledger, self._leads, self._now, self._monotonic = ledger, leads, now, monotonic
        self._serves = serves
        self._stale_after_s, self._unclaimed_after = stale_after_s, clock.seconds(unclaimed_after_s)
        self._key_max_age = key_max_age
        self._watched: dict[UUID, _Watched] = {}
        self._looked_at: float | None = None
        self._sweep_at = monotonic()
        self._sweep_after = _FIRST

    def ledger_is_away(self) -> None:
        """Time without the ledger does not count as anybody's silence."""
        self._looked_at = None

    def run_once(self) -> None:
        """Look at everybody's beats; if this process leads, bring back what is lost.

        Each step for itself: a row that one of them cannot bear does not keep the others from theirs.
        """
        stale, old_turn, over = self._look()
        if not self._leads():
            return
        steps: list[Callable[[], None]] = [partial(self._bury, worker) for worker in stale]
        if old_turn:
            steps.append(self._take_back)
        # Of a ledger that has forgotten something nobody knows what went out in time.
        if (over or not self._key_max_age()) and self._serves():
            steps.append(self._expire)
        if self._monotonic() >= self._sweep_at:
            steps += [self._sweep, self._take_back_orphans]
            self._sweep_at = self._monotonic() + SWEEP_EVERY_S
        self._each(steps)

    def _each(self, steps: Sequence[Callable[[], None]]) -> None:
        away: Exception | None = None
        for step in steps:
            try:
                step()
            except (SendqError, exc.SQLAlchemyError) as error:
                away = away or error
            except Exception:
                journal.bug("rescuer")
        if away is not None:
            raise away

    def _look(self) -> tuple[list[UUID], bool, bool]:
        """Workers that are silent for too long; whether a turn is open for too long; whether a job's time is over."""
        now = self._now()
        with reading(self._ledger) as connection:
            beats = workers.beats(connection)
            old_turn, over = rescue.anything(connection, before=now - self._unclaimed_after, now=now)
        looked_at = self._monotonic()
        passed = 0.0 if self._looked_at is None else min(LOOK_MOST_S, looked_at - self._looked_at)
        self._looked_at = looked_at
        for worker, count in beats.items():
            known = self._watched.get(worker)
            if known is None or known.beats != count:
                self._watched[worker] = _Watched(count)
            else:
                known.silent_s += passed
        for worker in self._watched.keys() - beats.keys():
            del self._watched[worker]
        silent = [worker for worker, watched in self._watched.items() if watched.silent_s >= self._stale_after_s]
        return silent, old_turn, over

    def _bury(self, worker: UUID) -> None:
        with writing(self._ledger) as connection:
            # Once more under lock: a beat may have come since.
            if workers.beats_of(connection, worker) != self._watched[worker].beats:
                return
            buried = rescue.bury(connection, worker, now=self._now(), key_max_age=self._key_max_age())
            stops.reached("burying")
        stops.reached("buried")
        journal.worker_buried(worker, turns=buried.turns, begun=buried.begun)

    def _take_back(self) -> None:
        now = self._now()
        with writing(self._ledger) as connection:
            turns = rescue.take_back_unclaimed(
                connection, offered_before=now - self._unclaimed_after, now=now, key_max_age=self._key_max_age()
            )
        if turns:
            journal.unclaimed(turns)

    def _expire(self) -> None:
        trusted = self._key_max_age()
        with writing(self._ledger) as connection:
            jobs = rescue.expire(connection, now=self._now(), limit=EXPIRE_MOST, key_max_age=trusted)
            if not trusted:
                rescue.doubt_open_keys(connection, now=self._now(), limit=EXPIRE_MOST)
        if jobs:
            journal.expired(jobs)

    def _sweep(self) -> None:
        with writing(self._ledger) as connection:
            onwards, lanes = rescue.sweep(connection, after=self._sweep_after, limit=SWEEP_MOST, now=self._now())
        if lanes:
            journal.asleep(lanes)
        self._sweep_after = onwards or _FIRST
        if onwards:  # there is more: go on with the next round
            self._sweep_at = self._monotonic()

    def _take_back_orphans(self) -> None:
        now = self._now()
        with writing(self._ledger) as connection:
            orphans = rescue.take_back_orphans(
                connection, begun_before=now - ORPHAN_AGE, now=now, key_max_age=self._key_max_age()
            )
        if orphans:
            journal.orphans(orphans)
