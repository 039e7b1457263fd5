"""The dispatcher: gives due lanes their turns. One at a time leads; the others stand by.

One round is one transaction: take in new jobs, see which lanes are due and how many calls the workers have room for,
open turns, commit. Only then the turns are published, in bundles. What the broker loses of them comes back by itself
(`worker.leading.rescuer`), so nothing here waits for an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine, exc

from sendq import clock
from sendq.clock import Micros
from sendq.errors import SendqError
from sendq.facts.turns import Turn
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import lineage, workers
from sendq.ledger.dispatching.lane_paces import apply_paces
from sendq.ledger.dispatching.lanes import NEVER
from sendq.ledger.dispatching.offers import Used, due_lanes, give_back, offer_turns, slots_in_use
from sendq.ledger.dispatching.pairs import PairView, read_pairs, unprove
from sendq.ledger.dispatching.waking import take_wakes, wake_lanes
from sendq.rules import fair_share
from sendq.rules.floors import Floors
from sendq.rules.pace import PROBE_PATIENCE, probing_room
from sendq.rules.paces import Paces
from tasks import failpoints
from worker.leading.wakeup import Wakeup
from worker.telemetry import journal, metrics
from worker.telemetry.alerts import alert


class Remembers(Protocol):
    """Knows how often the lease was renewed (`worker.leading.renewal_witness`)."""

    def has_seen(self, line: UUID) -> int | None:
        """The highest count it was told of, 0 if none; None: it does not answer."""

    def tell(self, line: UUID, renewals: int) -> None:
        """Remember a count."""


Publish = Callable[[Sequence[Sequence[Turn]]], None]

# New jobs' lanes taken in by one round; the rest by the next, which follows at once.
WAKES_MOST = 1_000

# Lanes whose pace one round compares with the settings, after the lead has changed.
PACED_MOST = 1_000
FIRST = UUID(int=0)

# Between two rounds that found something to do: new turns every few milliseconds, without a busy loop.
BUSY_PAUSE: Micros = clock.seconds(0.005)
# While turns are open or lanes are due but no worker has room, this often.
FULL_PAUSE: Micros = clock.seconds(0.02)
# With nothing to do for this long, ask to be woken by commits and sleep.
IDLE_AFTER: Micros = clock.seconds(0.05)
# Commits go on ringing until there was something to do in this many rounds running: to take back the wish to be woken,
# to look every few milliseconds and to ask for it again costs more than a few rings, and the worker that has just got
# a turn would wait for it.
STEADY = 4
# Asked for so far ahead: seldom enough to cost nothing, and further than the clocks of those who commit may be ahead.
SLEEP: Micros = clock.seconds(10)
# After an error, without listening to the bell: it may be what broke.
ERROR_PAUSE_S = 1.0

NOTHING_USED = Used(young=0, old=0)

# After a failed publication.
BROKER_PAUSE_FIRST, BROKER_PAUSE_MOST = clock.seconds(0.5), clock.seconds(5)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did, and when something is due next."""

    turns: Sequence[Turn]
    woken: int
    next_at: Micros
    full: bool


class Dispatcher:
    """A loop in a thread of its own. ``run_once`` is one round of it."""

    def __init__(
        self,
        ledger: Engine,
        publish: Publish,
        wakeup: Wakeup,
        *,
        holder: Callable[[], UUID],
        now: clock.Clock,
        monotonic: Callable[[], float] = time.monotonic,
        lease_s: float,
        poll_s: float,
        bundle_turns: int,
        bundle_slots: int,
        paces: Paces,
        witness: Remembers | None = None,
    ) -> None:
        """``witness``: what has seen how far the ledger was; None: nobody can say, and it is believed."""
        self._ledger, self._publish, self._wakeup, self._holder = ledger, publish, wakeup, holder
        self._now, self._monotonic = now, monotonic
        self._lease_s, self._poll_s = lease_s, poll_s
        self._bundle_turns, self._bundle_slots = bundle_turns, bundle_slots
        self._paces = paces
        self._paced: UUID | None = FIRST  # lanes up to here keep the paces of this process's settings; None: all do
        self._witness = witness
        self._open = witness is None  # whether the ledger is known to be whole
        self._fence: int | None = None
        self._ask_at = float("-inf")  # for the lease, or its renewal; monotonic
        self._watched: workers.Lease | None = None  # somebody else's
        self._watched_since = 0.0  # monotonic
        self._sleeps_until: Micros = 0  # as the ledger has it
        self._quiet_since: Micros | None = None
        self._busy_rounds = 0  # running, with something to do
        self._broker_pause: Micros = 0
        self._floors = Floors()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sendq-dispatcher", daemon=True)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that dispatches (and rescues)."""
        return self._fence is not None

    @property
    def serves(self) -> bool:
        """Whether it leads, and the ledger is whole: what it forgot, nobody may act upon."""
        return self.leads and self._open

    def start(self) -> None:
        """Begin to stand by, or to lead."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Give no further turns, and the lease to whoever wants it."""
        self._stopping.set()
        self._wakeup.ring()
        self._thread.join(limit_s)
        if self._fence is not None:
            try:
                with writing(self._ledger) as connection:
                    workers.resign(connection, self._holder())
            except SendqError:
                pass  # it runs out by itself

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause = self.run_once()
                if pause > FULL_PAUSE:
                    self._wakeup.wait(pause / clock.SECOND)
                elif pause > 0:  # everything rings while there is work; one round now and then takes it all
                    self._stopping.wait(pause / clock.SECOND)
            except (SendqError, exc.SQLAlchemyError) as error:
                journal.ledger_unavailable(error, waiting=0)
                self._fence, self._ask_at = None, float("-inf")
                self._stopping.wait(ERROR_PAUSE_S)
            except Exception:
                journal.bug("dispatcher")
                self._stopping.wait(ERROR_PAUSE_S)

    def run_once(self) -> Micros:
        """Lead if possible, and do one round; gives how long to wait before the next, unless the bell rings."""
        now = self._now()
        if self._monotonic() >= self._ask_at:
            self._ask_for_lease(now)
        if self._fence is None:
            return self._until_asking()
        if not self._open:
            return max(FULL_PAUSE, min(self._until_asking(), clock.seconds(self._poll_s)))
        if self._paced is not None:
            self._keep_paces(self._paced)
        done = self._round(now)
        metrics.dispatched(len(done.turns))
        if done.turns:
            self._publish_or_take_back(done.turns)
        return self._pause_after(done)

    def _ask_for_lease(self, now: Micros) -> None:
        asked_at = self._monotonic()
        fence = None
        over = None if self._fence is not None else self._lease_that_is_over(now)
        if self._fence is not None or over is not None:
            with writing(self._ledger) as connection:
                known_until = lineage.read(connection).renewed_at
                fence = workers.lead(connection, self._holder(), now=now, lease=clock.seconds(self._lease_s), over=over)
                found = lineage.read(connection)
            if fence is not None:
                self._see_whether_whole(found, known_until=known_until, new=fence != self._fence)
        if fence is not None and fence != self._fence:
            self._floors, self._sleeps_until, self._paced = Floors(), 0, FIRST
            journal.became_leader(self._holder(), fence)
        self._fence = fence
        self._ask_at = asked_at + (self._poll_s if fence is None else self._lease_s / 3)

    def _see_whether_whole(self, found: lineage.Standing, *, known_until: Micros, new: bool) -> None:
        """Compare the ledger with its witness, after each renewal; a leader that is ``new`` trusts nothing before."""
        if self._witness is None:
            self._open = found.shut_at is None
            return
        if new:
            self._open = False
        assert found.line is not None  # the lease was just taken, which names the line
        if found.shut_at is not None:
            self._open = False
            return
        seen = self._witness.has_seen(found.line)
        if seen is None:
            return  # it does not answer: neither would the broker, so nothing is lost by waiting
        if seen >= found.renewals:  # of this very renewal nobody can have told it
            with writing(self._ledger) as connection:
                lineage.shut(connection, known_until=known_until, now=self._now())
            self._open = False
            journal.dispatch_stopped(known_until)
            alert("shut", "ledger_has_lost", level="fatal")
            return
        self._witness.tell(found.line, found.renewals)
        if not self._open and not new:
            journal.dispatch_resumed()
        self._open = True

    def _lease_that_is_over(self, now: Micros) -> workers.Lease | None:
        """The lease, if it is free: looked at without a lock, for all who stand by do so all the time."""
        with reading(self._ledger) as connection:
            lease = workers.lease(connection)
        looked_at = self._monotonic()
        if lease != self._watched:
            self._watched, self._watched_since = lease, looked_at
        stood_still = looked_at - self._watched_since >= self._lease_s
        free = lease.holder in (None, self._holder()) or lease.expires_at <= now
        return lease if free or stood_still else None

    def _until_asking(self) -> Micros:
        return max(0, clock.seconds(self._ask_at - self._monotonic()))

    def _keep_paces(self, after: UUID) -> None:
        """The one who led before may have had other settings."""
        with writing(self._ledger) as connection:
            self._paced, changed = apply_paces(connection, self._paces, after=after, limit=PACED_MOST)
        if changed:
            journal.paces_applied(changed)

    def _round(self, now: Micros) -> Round:
        with writing(self._ledger) as connection:
            floors = self._floors
            floors.begin(now)
            wakes = take_wakes(connection, limit=WAKES_MOST, above=floors.wake_id)
            floors.woken((row.id for row in wakes), now)
            if wakes:
                wake_lanes(connection, wakes, now=now, paces=self._paces)
            pairs = read_pairs(connection, floors=floors.next_at)
            for pair in pairs:
                floors.first_lane((pair.application, pair.provider), pair.next_at, now)
            due = [pair for pair in pairs if pair.wants_at <= now]
            next_at = min((pair.wants_at for pair in pairs), default=NEVER)
            if not due:
                return Round((), len(wakes), next_at, full=False)
            return self._serve(connection, due, now=now, woken=len(wakes), next_at=next_at)

    def _serve(
        self, connection: Connection, due: Sequence[PairView], *, now: Micros, woken: int, next_at: Micros
    ) -> Round:
        floors = self._floors
        capacity, used = slots_in_use(connection, old_before=now - PROBE_PATIENCE, floor=floors.turn_at)
        floors.first_turn(min((one.first_at for one in used.values()), default=None), now)
        free = capacity - sum(one.young + one.old for one in used.values())
        waiting = {}
        for pair in due:
            allowed = pair.allows(now=now)
            if allowed is not None and pair.ramp is None:
                unprove(connection, pair)
            room = free
            if allowed is not None:
                by_pair = used.get((pair.application, pair.provider), NOTHING_USED)
                room = min(free, probing_room(allowed, young=by_pair.young, old=by_pair.old))
            if room > 0:
                waiting[pair] = fair_share.fit(
                    due_lanes(
                        connection, pair, now=now, limit=room, floor=floors.next_at[pair.application, pair.provider]
                    ),
                    room,
                )
        offered = offer_turns(connection, fair_share.choose(waiting, free), now=now)
        if offered:
            failpoints.reached("offering")
        return Round(offered, woken, next_at, full=not offered or len(offered) < sum(map(len, waiting.values())))

    def _publish_or_take_back(self, offered: Sequence[Turn]) -> None:
        bundles = fair_share.bundles(
            [(turn, turn.slots) for turn in offered], turns_each=self._bundle_turns, slots_each=self._bundle_slots
        )
        failpoints.reached("offered")
        try:
            self._publish(bundles)
            self._broker_pause = 0
            journal.dispatched(len(offered), len(bundles))
        except Exception as error:  # whatever the broker's client raises; the turns come back in any case
            journal.publish_failed(len(offered), error)
            metrics.publish_failed()
            self._broker_pause = min(BROKER_PAUSE_MOST, max(BROKER_PAUSE_FIRST, self._broker_pause * 2))
            with writing(self._ledger) as connection:
                give_back(connection, [(turn.lane_id, turn.fence) for turn in offered], now=self._now())

    def _pause_after(self, done: Round) -> Micros:
        now = self._now()
        if self._broker_pause:
            return self._broker_pause
        if done.woken == WAKES_MOST:
            return 0
        if done.turns or done.woken or done.full:
            self._quiet_since = None
            self._busy_rounds += 1
            if self._sleeps_until and self._busy_rounds >= STEADY:
                self._let_commits_ring(until=0)
            return FULL_PAUSE if done.full else BUSY_PAUSE
        self._busy_rounds = 0
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        rings = self._wakeup.rings
        # Whatever changes lanes rings; all the same it looks whenever it renews its lease.
        look_again = NEVER if rings else self._wakeup.look_every
        wait = max(0, min(done.next_at - now, look_again, self._until_asking()))
        if 0 <= now - self._quiet_since < IDLE_AFTER and not self._sleeps_until:
            return min(wait, BUSY_PAUSE)
        if rings and not SLEEP // 2 < self._sleeps_until - now <= SLEEP:
            self._let_commits_ring(until=now + SLEEP)
            return 0  # whoever committed before they could read that is seen by looking once more
        return wait

    def _let_commits_ring(self, *, until: Micros) -> None:
        with writing(self._ledger) as connection:
            if not workers.sleep_until(connection, self._holder(), until):
                self._fence = None  # somebody has taken the lease
        self._sleeps_until = until
