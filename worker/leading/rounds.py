"""A round of the dispatcher: one transaction, which takes in new jobs, looks at all pairs, and offers turns.

A job that comes alone to an idle lane takes four statements on PostgreSQL: take its wake row and lock its lane; look at
pairs and free slots; load the job; begin it and claim its lane's turn, which is the first time that the lane is
written. Where there is more to decide, the lane is written as soon as it is woken, and its turn is offered or claimed
like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Engine

from sendq import clock
from sendq.clock import Micros
from sendq.errors import Retryable
from sendq.facts.lanes import Lane, Wake
from sendq.facts.turns import Turn
from sendq.ledger.db.kept_connection import KeptConnection
from sendq.ledger.dispatching import canary
from sendq.ledger.dispatching.lanes import NEVER
from sendq.ledger.dispatching.offers import (
    Overview,
    Used,
    due_lanes,
    due_whole_lanes,
    offer_turns,
    opened,
    overview,
)
from sendq.ledger.dispatching.pairs import PairView, unprove
from sendq.ledger.dispatching.waking import (
    any_wakes,
    due_at_once,
    take_wakes,
    take_wakes_and_lock,
    wake_lanes,
    write_woken,
)
from sendq.rules import fair_share
from sendq.rules.floors import Floors
from sendq.rules.pace import PROBE_PATIENCE, probing_room
from sendq.rules.paces import Paces
from tasks import failpoints

ClaimAtOnce = Callable[[Connection, Sequence[Lane], float, ExitStack], Callable[[], None] | None]

# Wake rows (lanes with new jobs) taken in per round; the next round follows at once for the rest.
WAKES_MOST = 1_000

# Turns of a round that are claimed in its own transaction. More are claimed by other threads meanwhile.
AT_ONCE_MOST = 5
# Wake rows that a round takes in while it expects no more than that; one that finds so many is followed at once.
FEW_WAKES = AT_ONCE_MOST + 1

NOTHING_USED = Used(young=0, old=0)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did, and when the next lane is due (the past: perhaps one that this round has left)."""

    turns: Sequence[Turn]
    woken: int  # wake rows
    next_at: Micros
    full: bool
    busy: float = 0.0  # the share of all workers' slots that is in use, with these turns
    canaries: frozenset[UUID] = frozenset()  # lanes whose turns must go through the broker, because they test it
    begin: Callable[[], None] | None = None  # if the turns are claimed for this process: puts them on its event loop

    @property
    def may_have_left_wakes(self) -> bool:
        """Whether it took in as many new jobs as it would."""
        return self.woken in (FEW_WAKES, WAKES_MOST)


def none_at_once(_connection: Connection, _offered: Sequence[Lane], _busy: float, _until_over: ExitStack) -> None:
    """Leave all turns to be handed over."""


class Rounds:
    """What the rounds of one term of leadership know of each other. Used by the dispatcher's thread only."""

    def __init__(self, ledger: Engine, *, now: clock.Clock, paces: Paces, claim_at_once: ClaimAtOnce) -> None:
        self._now, self._paces, self._claim_at_once = now, paces, claim_at_once
        self._connection = KeptConnection(ledger)
        self._floors = Floors()
        self.full = False  # whether lanes are due for which there are no slots
        self.expects_wakes = False  # a commit has notified, or the last round found new jobs
        self._many_woken = False  # it found many
        self._tried_at_once = False  # whether this round has tried to claim its turns

    def forget(self) -> None:
        """Another process may have led since the last round."""
        self._floors = Floors()

    def close(self) -> None:
        """Give the connection back; a later round takes another one."""
        self._connection.close()

    def run(self) -> Round:
        """One round; the turns that it claims for this process are begun."""
        expected = self.expects_wakes
        try:
            with ExitStack() as until_over:
                done = self._round(self._now(), until_over)
                if done.begin is not None:
                    done.begin()
        except Retryable:
            if not self._tried_at_once:
                raise
            # Another transaction has probably locked one of the jobs. Only a thread of the intake may wait for that.
            self.expects_wakes = expected
            done = self._round(self._now(), None)
        self.full = done.full
        return done

    def _round(self, now: Micros, until_over: ExitStack | None) -> Round:
        """``until_over``: closed when the turns that were claimed at once are begun; None: claim none."""
        self._tried_at_once = False
        with self._connection.writing() as connection:
            self._floors.begin(now)
            quiet = None if self.full or self._many_woken else until_over
            wakes, lone = self._wake(connection, now=now, keep=quiet is not None)
            seen = self._look(connection, now=now)
            if self._many_woken:
                quiet = None
            if lone and quiet is not None:
                done = self._serve_lone(connection, seen, lone, quiet, now=now, woken=len(wakes))
                if done is not None:
                    return done
                write_woken(connection, lone)
                seen, quiet = self._look(connection, now=now), None if self._tried_at_once else quiet
            due = [pair for pair in seen.pairs if pair.wants_at <= now]
            if not due:
                return Round((), len(wakes), _first_wanted(seen, after=now), full=False)
            return self._serve(connection, seen, due, quiet, now=now, woken=len(wakes))

    def _wake(self, connection: Connection, *, now: Micros, keep: bool) -> tuple[Sequence[Wake], Sequence[Lane]]:
        """Take in new jobs. Returns the wake rows, and lanes that are due and not yet written: only if ``keep``, and if
        they are few.
        """
        floors, expected = self._floors, self.expects_wakes
        self.expects_wakes, self._many_woken = False, False
        if not expected and not any_wakes(connection, above=floors.wake_id):
            floors.woken((), now)
            return (), ()
        lanes: Mapping[UUID, Lane] = {}
        if keep:
            wakes, lanes = take_wakes_and_lock(connection, limit=FEW_WAKES, above=floors.wake_id)
        else:
            wakes = take_wakes(connection, limit=WAKES_MOST, above=floors.wake_id)
        floors.woken((row.id for row in wakes), now)
        self.expects_wakes, self._many_woken = bool(wakes), len(wakes) >= FEW_WAKES
        lone = None if self._many_woken else due_at_once(wakes, lanes, now=now)
        if wakes and lone is None:
            wake_lanes(connection, wakes, now=now, paces=self._paces)
        return wakes, lone or ()

    def _look(self, connection: Connection, *, now: Micros) -> Overview:
        floors = self._floors
        seen = overview(connection, old_before=now - PROBE_PATIENCE, floors=floors)
        for pair in seen.pairs:
            floors.first_lane((pair.application, pair.provider), pair.next_at, now)
        floors.first_turn(min((one.first_at for one in seen.used.values()), default=None), now)
        return seen

    def _serve_lone(
        self,
        connection: Connection,
        seen: Overview,
        lone: Sequence[Lane],
        until_over: ExitStack,
        *,
        now: Micros,
        woken: int,
    ) -> Round | None:
        """Claim turns of lanes that have just been woken, if nothing else is due and nothing limits their pairs. None,
        and nothing is written, if there is more to decide.
        """
        pairs = {(pair.application, pair.provider): pair for pair in seen.pairs}
        waiting: dict[PairView, list[tuple[UUID, int]]] = {}
        for lane in lone:
            pair = pairs.get(lane.pair)
            if pair is None or pair.held_until > now or pair.allows(now=now) is not None:
                return None
            waiting.setdefault(pair, []).append((lane.id, lane.ramp))
        free = seen.free
        chosen = fair_share.choose({pair: fair_share.fit(some, free) for pair, some in waiting.items()}, free)
        others_due = any(pair.wants_at <= now for pair in seen.pairs)
        if others_due or len(chosen) < len(lone) or any(lane.application == canary.APPLICATION for lane in lone):
            return None
        few = _opened(chosen, {lane.id: lane for lane in lone}, now=now)
        offered = _turns(few)
        begin = self._claim(connection, few, seen, until_over)
        if begin is None:
            return None
        failpoints.reached("offering")
        busy = _busy(offered, seen.capacity, free)
        return Round(offered, woken, _first_wanted(seen, after=now), full=False, busy=busy, begin=begin)

    def _claim(
        self, connection: Connection, few: Sequence[Lane], seen: Overview, until_over: ExitStack
    ) -> Callable[[], None] | None:
        """Claim these turns in this transaction; None, and nothing is written, if that is not possible."""
        self._tried_at_once = True
        return self._claim_at_once(connection, few, _busy(_turns(few), seen.capacity, seen.free), until_over)

    def _serve(
        self,
        connection: Connection,
        seen: Overview,
        due: Sequence[PairView],
        until_over: ExitStack | None,
        *,
        now: Micros,
        woken: int,
    ) -> Round:
        """Offer turns to the lanes of the pairs that are ``due``."""
        free = seen.free
        waiting = {}
        whole: dict[UUID, Lane] | None = None if until_over is None else {}
        for pair in due:
            allowed = pair.allows(now=now)
            if allowed is not None and pair.ramp is None:
                unprove(connection, pair)
            room = free
            if allowed is not None:
                by_pair = seen.used.get((pair.application, pair.provider), NOTHING_USED)
                room = min(free, probing_room(allowed, young=by_pair.young, old=by_pair.old))
            if room > 0:
                waiting[pair] = fair_share.fit(self._due(connection, pair, whole, now=now, limit=room), room)
        lanes = (lane for pair, lanes in waiting.items() if pair.application == canary.APPLICATION for lane, _ in lanes)
        canaries = frozenset(lanes)
        chosen = fair_share.choose(waiting, free)
        few = [] if until_over is None or canaries else _opened(chosen, whole, now=now)
        offered, begin = _turns(few), None
        if few and until_over is not None:
            begin = self._claim(connection, few, seen, until_over)
        if begin is None:
            offered = offer_turns(connection, chosen, now=now)
        if offered:
            failpoints.reached("offering")
        full = not offered or len(offered) < sum(map(len, waiting.values()))
        # A pair of which one lane was due may have no other; of the rest, further lanes may be due by now.
        after = (pair.then_wants_at if len(waiting.get(pair, ())) == 1 else now for pair in due)
        next_at = min(_first_wanted(seen, after=now), *after)
        busy = _busy(offered, seen.capacity, free)
        return Round(offered, woken, next_at, full=full, busy=busy, canaries=canaries, begin=begin)

    def _due(
        self, connection: Connection, pair: PairView, whole: dict[UUID, Lane] | None, *, now: Micros, limit: int
    ) -> list[tuple[UUID, int]]:
        """The due lanes of a pair; if they are few, their rows are added to ``whole``, unless that is None."""
        floor = self._floors.next_at[pair.application, pair.provider]
        if whole is not None:
            found = due_whole_lanes(connection, pair, now=now, limit=min(limit, AT_ONCE_MOST + 1), floor=floor)
            if len(found) <= AT_ONCE_MOST:
                whole |= {lane.id: lane for lane in found}
                return [(lane.id, lane.ramp) for lane in found]
        return due_lanes(connection, pair, now=now, limit=limit, floor=floor)


def _first_wanted(seen: Overview, *, after: Micros) -> Micros:
    """When the first of the pairs that are not due by then is due."""
    return min((pair.wants_at for pair in seen.pairs if pair.wants_at > after), default=NEVER)


def _opened(chosen: Sequence[tuple[UUID, int]], whole: Mapping[UUID, Lane] | None, *, now: Micros) -> list[Lane]:
    """The chosen lanes with the turns that they would be offered, if they are few and their ``whole`` rows known."""
    if not whole or len(chosen) > AT_ONCE_MOST or any(lane_id not in whole for lane_id, _ in chosen):
        return []
    return [opened(whole[lane_id], slots, now=now) for lane_id, slots in chosen]


def _turns(lanes: Sequence[Lane]) -> list[Turn]:
    return [Turn(lane.id, lane.fence, lane.turn_slots) for lane in lanes]


def _busy(offered: Sequence[Turn], capacity: int, free: int) -> float:
    """The share of all workers' slots that is in use, with these turns."""
    return 1 - (free - sum(turn.slots for turn in offered)) / capacity if capacity else 1.0
