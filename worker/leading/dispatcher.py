"""The dispatcher: offers turns of due lanes. Only the leader's dispatcher acts (`worker.leading.leadership`).

One round is one transaction (`worker.leading.rounds`). Then its turns are handed over in bundles: to this process's own
intake while it has room and its share of the work is not yet done, otherwise through the broker to any worker. A few
turns are claimed for this process in the round's own transaction, if that is possible without waiting for anything.
Turns that are lost on the way are taken back (`worker.leading.rescuer`), so nothing here waits for an acknowledgement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy import Engine, exc

from sendq import clock
from sendq.clock import Micros
from sendq.errors import Retryable, SendqError
from sendq.facts.turns import Turn
from sendq.ledger.db.engine import reading, writing
from sendq.ledger.dispatching import broker, workers
from sendq.ledger.dispatching.lane_paces import apply_paces
from sendq.ledger.dispatching.offers import give_back
from sendq.rules import fair_share
from sendq.rules.paces import Paces
from tasks import failpoints
from worker.leading.leadership import Leadership
from worker.leading.rounds import ClaimAtOnce, Round, Rounds, none_at_once
from worker.leading.wakeup import Wakeup
from worker.telemetry import journal, metrics

Publish = Callable[[Sequence[Sequence[Turn]]], None]
TakeOn = Callable[[Sequence[Turn], float], bool]

# Lanes per round whose pace is compared with the settings after a change of leader.
PACED_MOST = 1_000
FIRST = UUID(int=0)

# Least time between two rounds: new turns every few milliseconds, without a busy loop.
BUSY_PAUSE: Micros = clock.seconds(0.005)
# Pause while lanes are due but no worker has free slots.
FULL_PAUSE: Micros = clock.seconds(0.02)
# After this long with nothing to do, ask commits to notify, and sleep.
IDLE_AFTER: Micros = clock.seconds(0.015)
# Notifications are cancelled only after this many rounds in a row had work and followed one another closely. While work
# comes less often than that, one round when it comes costs less than a look every few milliseconds.
STEADY, CLOSELY = 8, 2 * BUSY_PAUSE
# How long a request for notifications lasts: long enough to cost nothing, and longer than any clock error.
SLEEP: Micros = clock.seconds(10)
# Pause after an error, without using the wakeup, which may be the cause.
ERROR_PAUSE_S = 1.0
# After so many rounds in a row that failed unexpectedly, another process gets this long to take the lease: it may have
# other code. If there is none, this process goes on trying.
FAILED_MOST = 5
AWAY_S = 10.0
# After a conflict with another transaction, which has committed by then.
CONFLICT_PAUSE_S = 0.02

# Pauses after a failed publication.
BROKER_PAUSE_FIRST, BROKER_PAUSE_MOST = clock.seconds(0.5), clock.seconds(5)


class Dispatcher:
    """A loop in its own thread. ``run_once`` is one round of it."""

    def __init__(
        self,
        ledger: Engine,
        publish: Publish,
        wakeup: Wakeup,
        *,
        leadership: Leadership,
        holder: Callable[[], UUID],
        now: clock.Clock,
        poll_s: float,
        bundle_turns: int,
        bundle_slots: int,
        paces: Paces,
        take_on: TakeOn = lambda bundle, busy: False,
        claim_at_once: ClaimAtOnce = none_at_once,
    ) -> None:
        """``holder``: this worker's id. ``poll_s``: seconds between two checks while nothing may be dispatched.

        ``take_on``: takes on a bundle in this process, without the broker, and returns whether it did; it is called
        with the share of all workers' slots that is in use. ``claim_at_once``: likewise, in the transaction that offers
        the turns (`worker.serving.intake.Intake.claim_at_once`).
        """
        self._take_on = take_on
        self._ledger, self._publish, self._wakeup, self._holder = ledger, publish, wakeup, holder
        self._leadership, self._now, self._poll_s = leadership, now, poll_s
        self._bundle_turns, self._bundle_slots = bundle_turns, bundle_slots
        self._paces = paces
        self._rounds = Rounds(ledger, now=now, paces=paces, claim_at_once=claim_at_once)
        self._term = 0  # of the leadership; the fields below are valid for this term
        self._paced: UUID | None = FIRST  # lanes up to here have the paces of this process's settings; None: all have
        self._sleeps_until: Micros = 0  # as recorded in the ledger
        self._quiet_since: Micros | None = None
        self._busy_rounds = 0  # in a row, with something to do, each soon after the one before
        self._busy_at: Micros = 0  # the last of them
        self._broker_pause: Micros = 0
        self._trouble_noted = False  # whether the ledger says that publishing fails
        self._failing_noted = False  # whether it says that rounds fail
        self._failed = 0  # rounds in a row
        self._failing_since: Micros = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sendq-dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread, which leads or waits to lead."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Dispatch no more turns, and give up the lease."""
        self._stopping.set()
        self._wakeup.wake()
        self._thread.join(limit_s)
        self._leadership.resign()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause = self.run_once()
                # Under load every commit would wake it; a round every few milliseconds is enough.
                least = min(pause, FULL_PAUSE if self._rounds.full else BUSY_PAUSE)
                if least > 0:
                    self._stopping.wait(least / clock.SECOND)
                if pause > least:
                    can_notify = self._wakeup.can_notify  # if not, any commit wakes it: a heartbeat's, for example
                    woken = self._wakeup.wait_for((pause - least) / clock.SECOND)
                    self._rounds.expects_wakes |= woken and can_notify
            except Retryable as error:
                journal.ledger_conflict(error, waiting=0)
                self._stopping.wait(CONFLICT_PAUSE_S)
            except (SendqError, exc.SQLAlchemyError) as error:
                journal.ledger_unavailable(error, waiting=0)
                self._leadership.ledger_unavailable()
                self._stopping.wait(ERROR_PAUSE_S)
            except Exception:
                journal.bug("dispatcher")
                self._count_failed_round()
                self._stopping.wait(ERROR_PAUSE_S)
        self.close()

    def close(self) -> None:
        """Return the connection of its rounds; a stopped thread has done so."""
        self._rounds.close()

    def _count_failed_round(self) -> None:
        """Give up leading for a while after some failed rounds in a row, and say so in the ledger."""
        self._failing_since = self._failing_since if self._failed else self._now()
        self._failed += 1
        if self._failed < FAILED_MOST:
            return
        self._failed = 0
        try:
            with writing(self._ledger) as connection:
                broker.note_failing(connection, since=self._failing_since)
            self._leadership.step_down(AWAY_S)
        except Exception:  # of any type: the code may be anything but whole
            journal.bug("dispatcher")

    def _note_round(self) -> None:
        """A round, and all that belongs to it, has succeeded."""
        self._failed = 0
        if self._failing_noted:
            with writing(self._ledger) as connection:
                broker.note_round(connection)
            self._failing_noted = False

    def run_once(self) -> Micros:
        """Lead if possible, and do one round; returns how long to wait for the next one unless woken."""
        leadership = self._leadership
        leadership.ask()
        if not leadership.leads:
            return leadership.until_asking()
        if leadership.terms != self._term:
            self._term = leadership.terms
            metrics.leads()
            self._rounds.forget()
            self._sleeps_until, self._paced = 0, FIRST
            with reading(self._ledger) as connection:
                trouble = broker.read(connection)
            self._trouble_noted = trouble.unpublished_since is not None
            self._failing_noted = trouble.failing_since is not None
        if not leadership.serves:
            return max(FULL_PAUSE, min(leadership.until_asking(), clock.seconds(self._poll_s)))
        if self._paced is not None:
            self._apply_paces(self._paced)
        self._wakeup.catch_up()
        done = self._rounds.run()
        metrics.dispatched(len(done.turns))
        if done.turns:
            self._hand_over(done)
        self._note_round()
        return self._pause_after(done)

    def _apply_paces(self, after: UUID) -> None:
        """Apply this process's paces to some lanes: the previous leader may have had other settings."""
        with writing(self._ledger) as connection:
            self._paced, changed = apply_paces(connection, self._paces, after=after, limit=PACED_MOST)
        if changed:
            journal.paces_applied(changed)

    def _hand_over(self, done: Round) -> None:
        """Have the turns of a round claimed, if they are not yet: by this process, or by whichever worker the broker
        gives them to.
        """
        if done.begin is not None:
            journal.dispatched(len(done.turns), bundles=1, here=1)
            self._broker_pause = 0
            self._note_published()
            return
        bundles = fair_share.bundles(
            [(turn, turn.slots) for turn in done.turns], turns_each=self._bundle_turns, slots_each=self._bundle_slots
        )
        failpoints.reached("offered")
        elsewhere = [
            bundle
            for bundle in bundles
            if any(turn.lane_id in done.canaries for turn in bundle) or not self._take_on(bundle, done.busy)
        ]
        journal.dispatched(len(done.turns), len(bundles), here=len(bundles) - len(elsewhere))
        self._broker_pause = self._publish_or_take_back(elsewhere) if elsewhere else 0
        if not self._broker_pause:
            self._note_published()

    def _publish_or_take_back(self, bundles: Sequence[Sequence[Turn]]) -> Micros:
        """Publish; returns how long to pause because the broker cannot be reached."""
        try:
            self._publish(bundles)
        except Exception as error:  # of any type; the turns are taken back in any case
            turns = [turn for bundle in bundles for turn in bundle]
            journal.publish_failed(len(turns), error)
            metrics.publish_failed()
            with writing(self._ledger) as connection:
                give_back(connection, [(turn.lane_id, turn.fence) for turn in turns], now=self._now())
                broker.note_unpublished(connection, now=self._now())
            self._trouble_noted = True
            return min(BROKER_PAUSE_MOST, max(BROKER_PAUSE_FIRST, self._broker_pause * 2))
        return 0

    def _note_published(self) -> None:
        """No turn waits for the broker any more: each was published, or taken on here."""
        if self._trouble_noted:
            with writing(self._ledger) as connection:
                broker.note_published(connection)
            self._trouble_noted = False

    def _pause_after(self, done: Round) -> Micros:
        now = self._now()
        if self._broker_pause:
            return self._broker_pause
        if done.may_have_left_wakes:
            return 0
        if done.turns or done.woken or done.full:
            return self._pause_after_work(done, now)
        self._busy_rounds = 0
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        if 0 <= now - self._quiet_since < IDLE_AFTER and not self._sleeps_until:
            return min(BUSY_PAUSE, self._until_next(done, now))
        return self._until_woken(done, now)

    def _pause_after_work(self, done: Round, now: Micros) -> Micros:
        self._quiet_since = None
        self._busy_rounds = self._busy_rounds + 1 if 0 <= now - self._busy_at <= CLOSELY else 1
        self._busy_at = now
        if self._sleeps_until and self._busy_rounds >= STEADY:
            self._ask_for_notifications(until=0)
        if done.full:
            return FULL_PAUSE
        return max(BUSY_PAUSE, self._until_woken(done, now)) if self._sleeps_until else BUSY_PAUSE

    def _until_woken(self, done: Round, now: Micros) -> Micros:
        """How long to sleep; commits that make work notify meanwhile, if they can."""
        if self._wakeup.can_notify and not SLEEP // 2 < self._sleeps_until - now <= SLEEP:
            self._ask_for_notifications(until=now + SLEEP)
            return 0  # another round finds what was committed before the request
        return self._until_next(done, now)

    def _until_next(self, done: Round, now: Micros) -> Micros:
        # Every change of a lane notifies; as a safety net there is a round with each renewal of the lease.
        # A request for notifications must not run out unnoticed.
        look_again = SLEEP // 2 if self._wakeup.can_notify else self._wakeup.poll_every
        return max(0, min(done.next_at - now, look_again, self._leadership.until_asking()))

    def _ask_for_notifications(self, *, until: Micros) -> None:
        with writing(self._ledger) as connection:
            if not workers.sleep_until(connection, self._holder(), until):
                self._leadership.lose()
        self._sleeps_until = until
