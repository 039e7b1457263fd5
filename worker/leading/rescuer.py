"""The rescuer: takes back the work of dead workers, lost messages and forgotten lanes.

Every worker process watches the heartbeats of the others. A worker is stale when its beat count has not changed for the
time that it named when it registered: watchers may have other settings for themselves. The silence is measured by the
monotonic clocks of the watching processes, which pass it on to each other, and only time in which they could reach the
ledger counts: after an outage of the ledger every worker can beat first.

The leader takes back the work of dead workers and lost messages. The other processes do so a little later if it does
not, because leaders can die one after another, each before it gets that far. Everything else only the leader does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq import clock
from sendq.errors import SendqError
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import broker, rescue, workers
from sendq.ledger.dispatching.workers import Beats
from tasks import failpoints
from worker.leading.leadership import Leads
from worker.processes.periodic_loop import PeriodicLoop
from worker.telemetry import journal

ROUND_S = 1.0

# The most time between two looks that counts as silence: beyond it this process itself was suspended or without a
# ledger.
LOOK_MOST_S = 2.0

# How much later a process that does not lead acts: random, so that not all act at once.
LATER_S = (0.3, 1.0)

EXPIRE_MOST = 500

# The safety net for lost wake rows runs rarely: there should never be anything to find.
SWEEP_EVERY_S = 30.0
SWEEP_MOST = 1_000

# A begun job whose turn ended this long ago is orphaned; recording an outcome takes less time.
ORPHAN_AGE = clock.seconds(60)

_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found."""

    stale: Sequence[UUID]  # workers
    silent: Mapping[UUID, Beats]  # workers whose silence is to be shared with the other processes
    overdue: rescue.Overdue
    offered_before: clock.Micros  # an unclaimed turn offered before this is taken back


class LeaderClock:
    """The time by the clock of the current or last leader, which dates the turns; other clocks may be an hour ahead.

    It is read from the renewals of the lead, and continued with this process's monotonic clock between them. It is
    behind by up to the time between two looks, never ahead.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._renewed_at: clock.Micros = 0
        self._seen_at = 0.0

    def __call__(self) -> clock.Micros:
        """The leader's time; 0 before the first renewal was seen."""
        if not self._renewed_at:
            return 0
        return self._renewed_at + clock.seconds(self._monotonic() - self._seen_at)

    def note(self, renewed_at: clock.Micros) -> None:
        """Record when the lead was last renewed, according to the ledger."""
        if renewed_at != self._renewed_at:
            self._renewed_at, self._seen_at = renewed_at, self._monotonic()


class Rescuer(PeriodicLoop):
    """One per process."""

    def __init__(
        self,
        ledger: Engine,
        leadership: Leads,
        *,
        now: clock.Clock,
        unclaimed_after_s: float,
        later_s: float,
        key_max_age: Callable[[], clock.Micros],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``later_s``: how much later it acts while it does not lead.

        ``key_max_age``: returns the age up to which keys are trusted now.
        """
        super().__init__("rescuer", every_s=ROUND_S)
        self._ledger, self._leadership, self._now, self._monotonic = ledger, leadership, now, monotonic
        self._unclaimed_after = clock.seconds(unclaimed_after_s)
        self._later = clock.seconds(later_s)
        self._key_max_age = key_max_age
        self._watched: dict[UUID, Beats] = {}
        self._looked_at: float | None = None
        self._leader_clock = LeaderClock(monotonic)
        self._sweep_at = monotonic()
        self._sweep_after = _FIRST

    def ledger_unavailable(self) -> None:
        """Do not count time without the ledger as silence of the workers."""
        self._looked_at = None

    def run_once(self) -> None:
        """Look at the beats of all workers, and take back what is lost.

        Each step is independent: if a row makes one of them fail, the others still run.
        """
        leads = self._leadership.leads
        seen = self._look(later=0 if leads else self._later)
        steps: list[Callable[[], None]] = [partial(self._bury, worker) for worker in seen.stale]
        if seen.silent:
            steps.append(partial(self._share_silence, seen.silent))
        if seen.overdue.turns:
            steps.append(partial(self._take_back, seen.offered_before))
        elif leads and seen.overdue.unclaimed:
            steps.append(self._note_claims)
        # If the ledger has lost something, it is unknown what was sent in time.
        if (seen.overdue.jobs or not self._key_max_age()) and self._leadership.serves:
            steps.append(self._expire)
        if leads and self._monotonic() >= self._sweep_at:
            steps += [self._sweep, self._take_back_orphans]
            self._sweep_at = self._monotonic() + SWEEP_EVERY_S
        self._each(steps)

    def _each(self, steps: Sequence[Callable[[], None]]) -> None:
        unavailable: Exception | None = None
        for step in steps:
            try:
                step()
            except (SendqError, exc.SQLAlchemyError) as error:
                unavailable = unavailable or error
            except Exception:
                journal.bug("rescuer")
        if unavailable is not None:
            raise unavailable

    def _look(self, *, later: clock.Micros) -> _Seen:
        offered_before = self._leader_clock() - self._unclaimed_after - later
        with reading(self._ledger) as connection:
            beats = workers.beats(connection)
            overdue = rescue.anything(connection, before=offered_before, now=self._now())
        self._leader_clock.note(overdue.renewed_at)
        looked_at = self._monotonic()
        passed = 0.0 if self._looked_at is None else min(LOOK_MOST_S, looked_at - self._looked_at)
        self._looked_at = looked_at
        self._watched = {worker: self._watch(worker, read, clock.seconds(passed)) for worker, read in beats.items()}
        silent = {
            worker: seen
            for worker, seen in self._watched.items()
            # Less than half of the time is a normal pause between two beats.
            if seen.silent >= max(seen.stale_after // 2, beats[worker].silent + clock.seconds(ROUND_S) + later)
        }
        stale = [worker for worker, seen in self._watched.items() if seen.silent >= seen.stale_after + later]
        return _Seen(stale, silent, overdue, offered_before)

    def _watch(self, worker: UUID, read: Beats, passed: clock.Micros) -> Beats:
        """How long this worker has been silent: as seen by this process, or as other processes wrote to the ledger."""
        known = self._watched.get(worker)
        if known is None or known.count != read.count:
            return read
        return replace(read, silent=max(read.silent, known.silent + passed))

    def _share_silence(self, silent: Mapping[UUID, Beats]) -> None:
        with writing(self._ledger) as connection:
            for worker in sorted(silent):
                workers.record_silence(connection, worker, silent[worker])

    def _bury(self, worker: UUID) -> None:
        with writing(self._ledger) as connection:
            # Check again under lock: there may have been a beat since.
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
                broker.note_unclaimed(connection, since=offered_before)
        if turns:
            journal.turns_unclaimed(turns)

    def _note_claims(self) -> None:
        with writing(self._ledger) as connection:
            broker.note_claimed(connection, now=self._now())

    def _expire(self) -> None:
        trusted = self._key_max_age()
        with writing(self._ledger) as connection:
            jobs = rescue.expire(connection, now=self._now(), limit=EXPIRE_MOST, key_max_age=trusted)
        with writing(self._ledger) as connection:  # others, as below: each locks its jobs in order
            unapproved = rescue.give_up_unapproved(connection, now=self._now(), limit=EXPIRE_MOST)
        if not trusted:
            with writing(self._ledger) as connection:
                rescue.doubt_open_keys(connection, now=self._now(), limit=EXPIRE_MOST)
        if jobs:
            journal.jobs_expired(jobs)
        if unapproved:
            journal.jobs_not_approved(unapproved)

    def _sweep(self) -> None:
        with writing(self._ledger) as connection:
            onwards, lanes = rescue.sweep(connection, after=self._sweep_after, limit=SWEEP_MOST, now=self._now())
        if lanes:
            journal.idle_lanes_woken(lanes)
        self._sweep_after = onwards or _FIRST
        if onwards:  # there is more: continue in the next round
            self._sweep_at = self._monotonic()

    def _take_back_orphans(self) -> None:
        now = self._now()
        with writing(self._ledger) as connection:
            orphans = rescue.take_back_orphans(
                connection, begun_before=now - ORPHAN_AGE, now=now, key_max_age=self._key_max_age()
            )
        if orphans:
            journal.orphaned_jobs_returned(orphans)
