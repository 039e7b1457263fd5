"""One lane with two calls at once, an account that asks for quiet, and a person who may sign in again.

Calls that were on the wire when the hold fell come back after it, throttled, refused for want of credentials or
accepted; their turn may be one that was taken back. A tick is ten minutes, and who asks for quiet wants twenty. What a
hold, an outcome and the end of a turn make of the lane is the product's own (`sendq.rules.lane_change`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, cast

from sendq.clock import Micros
from sendq.facts.outcomes import Hold, Outcome, Scope
from sendq.facts.turns import End
from sendq.rules.lane_change import LaneChange
from sendq.rules.pace import next_ramp, next_turn_at
from sendq.rules.states import Event
from tests.model.explorer import Promise, World
from tests.model.parts import MINUTE, NOBODY, outcome_of

TICK: Micros = 10 * MINUTE
START: Micros = 100 * TICK
QUIET: Micros = 2 * TICK
LAST = START + 3 * TICK
WIDTH = 2
CALLS_MOST = 3  # on the wire, those of turns that were taken back included


class Lane(NamedTuple):
    """The columns that a hold concerns."""

    id: Any = NOBODY
    application: str = "default"
    provider: str = "imap"
    grant_id: str = "g1"
    fence: int = 0
    turn: str | None = None
    turn_at: Micros = 0
    width: int = WIDTH
    ramp: int = WIDTH
    stretch: Micros = 0
    spacing: Micros = 0
    held_until: Micros | None = None
    held_since: Micros | None = None
    streak: int = 0
    refused: int = 0
    checks: int = 0
    closed_at: Micros | None = None
    opened_at: Micros | None = None
    suspected: bool = False


class Call(NamedTuple):
    """On the wire, in the turn of this fence."""

    begun_at: Micros
    fence: int


class Life(NamedTuple):
    """``ramp``: the turn's own. ``told_until``, ``incidents``: what the account was heard to want, and how often."""

    now: Micros = START
    lane: Lane = Lane()
    ramp: int = WIDTH
    calls: tuple[Call, ...] = ()
    told_until: Micros = 0  # what the ledger was told of the account's wish
    incidents: int = 0
    hold_since: Micros = 0
    signed_in: Micros = 0
    disturbed: bool = False
    luck: int = 2


class Holds(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "a late hold counts": Promise.QUIET,
        "one incident, one step": Promise.QUIET,
        "a held turn begins nothing more": Promise.QUIET,
        "an end does not undo the probe": Promise.QUIET,
        "what was begun before does not close again": Promise.TRUE,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        lane, now = state.lane, state.now
        if now < LAST:
            yield "10 minutes pass", state._replace(now=now + TICK)
        wanted = next_turn_at(now, ready_at=0, held_until=lane.held_until, closed=lane.closed_at is not None)
        if lane.turn is None and wanted is not None and wanted <= now and lane.fence < 3:
            turn = lane._replace(turn="claimed", turn_at=now, fence=lane.fence + 1)
            yield f"turn {turn.fence} begins", state._replace(lane=turn, ramp=lane.ramp)
        if lane.turn is not None:
            yield from self._begin(state)
            taken = lane._replace(turn=None)
            yield f"turn {lane.fence} is taken back", state._replace(lane=taken)
            if not any(call.fence == lane.fence for call in state.calls):
                yield f"turn {lane.fence} ends", state._replace(lane=self._ended(state))
        for place, call in enumerate(state.calls):
            less = state._replace(calls=state.calls[:place] + state.calls[place + 1 :])
            yield from self._answer(less, call)
        if lane.closed_at is not None:
            opened = lane._replace(closed_at=None, opened_at=now)
            yield "the person signs in again", state._replace(lane=opened, signed_in=now)

    def _begin(self, state: Life) -> Iterator[tuple[str, Life]]:
        """As `sendq.ledger.dispatching.record` begins a job with the commit before it."""
        lane, now = state.lane, state.now
        free = sum(call.fence == lane.fence for call in state.calls) < state.ramp
        held = (lane.held_until or 0) > now and self.has("a held turn begins nothing more")
        if (
            len(state.calls) < CALLS_MOST and free and not held and lane.closed_at is None and lane.turn_at == now
        ):  # a turn lasts for seconds
            calls = tuple(sorted([*state.calls, Call(now, lane.fence)]))
            first = lane.held_since is not None and lane.held_since <= lane.turn_at
            crowd = first and lane.streak > 0 and len(calls) > 1 and all(c.fence == lane.fence for c in calls)
            disturbed = state.disturbed or now < state.told_until or crowd
            yield f"turn {lane.fence} calls", state._replace(calls=calls, disturbed=disturbed)

    def _ended(self, state: Life) -> Lane:
        lane = state.lane
        seen = lane if self.has("an end does not undo the probe") else lane._replace(held_since=None)
        change = LaneChange(cast(Any, seen))
        change.end(End(NOBODY, lane.fence, NOBODY, ready_at=0, ramp=state.ramp), now=state.now)
        return lane._replace(turn=None, ramp=change.columns["ramp"])

    def _answer(self, state: Life, call: Call) -> Iterator[tuple[str, Life]]:
        ours = state.lane.turn is not None and state.lane.fence == call.fence
        accepted = outcome_of(call.fence, Event.ACCEPT, begun_at=call.begun_at)
        ramp = next_ramp(state.ramp, WIDTH, succeeded=True) if ours else state.ramp
        after = state._replace(ramp=ramp)
        yield "a call is accepted", after._replace(lane=self._told(after, accepted, ours=ours))
        if not state.luck:
            return
        worse = state._replace(luck=state.luck - 1)
        anew = call.begun_at >= state.hold_since
        hold = Hold(Scope.GRANT, "throttled", "policy", state.now + QUIET)
        throttled = outcome_of(call.fence, Event.RETURN, begun_at=call.begun_at, hold=hold)
        stopped = 0 if ours else state.ramp
        after = worse._replace(lane=self._told(worse, throttled, ours=ours), ramp=stopped)
        if anew:
            after = after._replace(incidents=state.incidents + 1, hold_since=state.now, told_until=state.now + QUIET)
        yield "a call is throttled", after
        if call.begun_at < state.signed_in or not state.signed_in:
            refused = Hold(Scope.GRANT, "reauth", "policy", None)
            outcome = outcome_of(call.fence, Event.RETURN, begun_at=call.begun_at, hold=refused)
            lane = self._told(worse, outcome, ours=ours)
            yield "a call is refused for want of credentials", worse._replace(lane=lane, ramp=stopped)

    def _told(self, state: Life, outcome: Outcome, *, ours: bool) -> Lane:
        lane = seen = state.lane
        if not ours and not self.has("a late hold counts"):
            return lane
        if not self.has("one incident, one step"):
            seen = seen._replace(held_since=None)
        if not self.has("what was begun before does not close again"):
            seen = seen._replace(opened_at=None)
        change = LaneChange(cast(Any, seen))
        change.apply(outcome, now=state.now)
        return lane._replace(**{name: value for name, value in change.columns.items() if name in Lane._fields})

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.disturbed or state.lane.streak > state.incidents:
            yield Promise.QUIET
        if state.signed_in and state.lane.closed_at is not None:
            yield Promise.TRUE  # the ledger calls for a person who has signed in

    def done(self, state: Life) -> bool:
        return state.now == LAST and not state.calls
