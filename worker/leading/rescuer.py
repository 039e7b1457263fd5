"""The rescuer: brings back what dead workers, lost messages and forgotten lanes hold.

Every worker process watches the others' beats. A worker is stale when its count of beats has stood still for a while on
the monotonic clocks of those who watch, one after another, and only time in which they could themselves reach the
ledger counts: after an outage of the ledger everybody gets to speak first.

What dead workers and lost messages hold, the one that leads brings back; the others do so a little later if it does
not, for leaders can die one after another, each before it has come so far. The rest is the leader's alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import rescue, workers
from sendq.ledger.dispatching.workers import Beats
from tasks import failpoints
from worker.leading.leadership import Leads
from worker.processes.periodic_loop import PeriodicLoop
from worker.telemetry import journal

ROUND_S = 1.0

# More between two looks does not count as silence: this process was away itself (suspended, or without a ledger).
LOOK_MOST_S = 2.0

# Those who do not lead act so much later, and not all at the same moment.
LATER_S = (0.3, 1.0)

EXPIRE_MOST = 500

# The net under all wake rows goes round slowly: what it finds should never be there.
SWEEP_EVERY_S = 30.0
SWEEP_MOST = 1_000

# A begun job whose turn is over is nobody's after this long; an outcome that is being recorded is quicker.
ORPHAN_AGE = clock.seconds(60)

_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found."""

    stale: Sequence[UUID]  # workers
    mute: Mapping[UUID, Beats]  # workers of whose silence the others should know
    overdue: rescue.Overdue
    offered_before: clock.Micros  # a turn that nobody claimed since then is taken back


class LeadersTime:
    """The time by the clock of whoever leads, or did: turns are dated by it, and another clock may be an hour ahead.

    It is known by the renewals of the lead, and goes on with this process's monotonic clock when there is none for a
    while. Behind by up to the time between two looks, never ahead.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._renewed_at: clock.Micros = 0
        self._seen_at = 0.0

    def __call__(self) -> clock.Micros:
        """Before the first renewal was seen, the beginning of time."""
        if not self._renewed_at:
            return 0
        return self._renewed_at + clock.seconds(self._monotonic() - self._seen_at)

    def saw(self, renewed_at: clock.Micros) -> None:
        """The lead was renewed then, as the ledger says now."""
        if renewed_at != self._renewed_at:
            self._renewed_at, self._seen_at = renewed_at, self._monotonic()


class Rescuer(PeriodicLoop):
    """Every process has one."""

    def __init__(
        self,
        ledger: Engine,
        leadership: Leads,
        *,
        now: clock.Clock,
        stale_after_s: float,
        unclaimed_after_s: float,
        later_s: float,
        key_max_age: Callable[[], clock.Micros],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``later_s``: how much later it acts while it does not lead.

        ``key_max_age``: the age up to which keys are trusted now.
        """
        super().__init__("rescuer", every_s=ROUND_S)
        self._ledger, self._leadership, self._now, self._monotonic = ledger, leadership, now, monotonic
        self._stale_after, self._unclaimed_after = clock.seconds(stale_after_s), clock.seconds(unclaimed_after_s)
        self._later = clock.seconds(later_s)
        self._key_max_age = key_max_age
        self._watched: dict[UUID, Beats] = {}
        self._looked_at: float | None = None
        self._leaders_time = LeadersTime(monotonic)
        self._sweep_at = monotonic()
        self._sweep_after = _FIRST

    def ledger_unavailable(self) -> None:
        """Time without the ledger does not count as anybody's silence."""
        self._looked_at = None

    def run_once(self) -> None:
        """Look at everybody's beats, and bring back what is lost.

        Each step for itself: a row that one of them cannot bear does not keep the others from theirs.
        """
        leads = self._leadership.leads
        seen = self._look(later=0 if leads else self._later)
        steps: list[Callable[[], None]] = [partial(self._bury, worker) for worker in seen.stale]
        if seen.mute:
            steps.append(partial(self._tell, seen.mute))
        if seen.overdue.turns:
            steps.append(partial(self._take_back, seen.offered_before))
        # Of a ledger that has forgotten something nobody knows what went out in time.
        if (seen.overdue.jobs or not self._key_max_age()) and self._leadership.serves:
            steps.append(self._expire)
        if leads and self._monotonic() >= self._sweep_at:
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

    def _look(self, *, later: clock.Micros) -> _Seen:
        offered_before = self._leaders_time() - self._unclaimed_after - later
        with reading(self._ledger) as connection:
            beats = workers.beats(connection)
            overdue = rescue.anything(connection, before=offered_before, now=self._now())
        self._leaders_time.saw(overdue.renewed_at)
        looked_at = self._monotonic()
        passed = 0.0 if self._looked_at is None else min(LOOK_MOST_S, looked_at - self._looked_at)
        self._looked_at = looked_at
        self._watched = {worker: self._watch(worker, told, clock.seconds(passed)) for worker, told in beats.items()}
        mute = {
            worker: seen
            for worker, seen in self._watched.items()
            # Until half of the time has passed, it is a pause between two beats.
            if seen.silent >= max(self._stale_after // 2, beats[worker].silent + clock.seconds(ROUND_S) + later)
        }
        stale = [worker for worker, seen in self._watched.items() if seen.silent >= self._stale_after + later]
        return _Seen(stale, mute, overdue, offered_before)

    def _watch(self, worker: UUID, told: Beats, passed: clock.Micros) -> Beats:
        """How long this worker is silent: as this process saw it, or as it was told by those who watched before."""
        known = self._watched.get(worker)
        if known is None or known.count != told.count:
            return told
        return Beats(told.count, max(told.silent, known.silent + passed))

    def _tell(self, mute: Mapping[UUID, Beats]) -> None:
        with writing(self._ledger) as connection:
            for worker in sorted(mute):
                workers.tell_silence(connection, worker, mute[worker])

    def _bury(self, worker: UUID) -> None:
        with writing(self._ledger) as connection:
            # Once more under lock: a beat may have come since.
            if workers.beats_of(connection, worker) != self._watched[worker].count:
                return
            buried = rescue.bury(connection, worker, now=self._now(), key_max_age=self._key_max_age())
            failpoints.reached("burying")
        failpoints.reached("buried")
        journal.worker_declared_dead(worker, turns=buried.turns, begun=buried.begun)

    def _take_back(self, offered_before: clock.Micros) -> None:
        with writing(self._ledger) as connection:
            turns = rescue.take_back_unclaimed(
                connection, offered_before=offered_before, now=self._now(), key_max_age=self._key_max_age()
            )
        if turns:
            journal.turns_unclaimed(turns)

    def _expire(self) -> None:
        trusted = self._key_max_age()
        with writing(self._ledger) as connection:
            jobs = rescue.expire(connection, now=self._now(), limit=EXPIRE_MOST, key_max_age=trusted)
            if not trusted:
                rescue.doubt_open_keys(connection, now=self._now(), limit=EXPIRE_MOST)
        if jobs:
            journal.jobs_expired(jobs)

    def _sweep(self) -> None:
        with writing(self._ledger) as connection:
            onwards, lanes = rescue.sweep(connection, after=self._sweep_after, limit=SWEEP_MOST, now=self._now())
        if lanes:
            journal.idle_lanes_woken(lanes)
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
            journal.orphaned_jobs_returned(orphans)
