"""One worker with a turn, its beats, its two clocks, and the rescuers who watch: who calls after its turn was taken.

A tick is two seconds. The machine may be suspended (its monotonic clock stands still, the wall clock does not), its
wall clock may be set back by an hour, a beat's answer may be slow, and what has passed the last look before the wire
may take a tick to get there. A machine that is suspended just then calls late, whatever it looked at, and so does one
whose clocks are both fooled: there the idempotency key is the only protection. The lease is the product's own
(`worker.serving.lease`). A rescuer may die at any time; the next one goes on from what was written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from sendq.clock import SECOND
from settings import Settings
from tests.model.explorer import Promise, World
from worker.serving.heartbeat import LEASE_MARGIN_S
from worker.serving.lease import Lease

TICK_S = 2
LAST = 10
HOUR_S = 3600

_SETTINGS = {name: field.default for name, field in Settings.model_fields.items()}
STALE_S: float = _SETTINGS["stale_after_s"]


class Life(NamedTuple):
    """``lease``: until when, by both clocks. ``beat``: when the one on its way began; ``written``: it is committed."""

    at: int = 0
    suspended: int = 0  # ticks that the monotonic clock has missed
    asleep: bool = False
    set_back: bool = False
    lease: tuple[float, float] = (0, 0)
    beat: tuple[float, int] | None = None
    written: bool = False
    silent: int = 0  # ticks for which the rescuer has seen no new beat
    told: int = 0  # of those, what is written down for the next one
    buried: bool = False
    leaves: str = ""  # a call was let go and is not on the wire yet: "now", or "late" after a tick
    called_late: bool = False
    luck: int = 1

    @property
    def monotonic(self) -> float:
        return 100.0 + (self.at - self.suspended) * TICK_S

    @property
    def wall(self) -> int:
        return (10 * HOUR_S + self.at * TICK_S - self.set_back * HOUR_S) * SECOND


class Leases(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "lease before the wire": Promise.ONE_TURN,
        "the wall clock": Promise.ONE_TURN,
        "the monotonic clock": Promise.ONE_TURN,
        "it ends before the rescuer's patience": Promise.ONE_TURN,
        "it counts from a beat's beginning": Promise.ONE_TURN,
        "a beat takes back the silence before it": Promise.ONE_TURN,
    }

    def first(self) -> Iterator[Life]:
        life = Life()
        yield life._replace(lease=self._renewed(life, self._lease(life).begin()))

    def _lease(self, life: Life) -> Lease:
        until, wall_until = life.lease
        holds_s = STALE_S - (LEASE_MARGIN_S if self.has("it ends before the rescuer's patience") else 0)
        if not self.has("the wall clock"):
            wall_until = float("inf")
        if not self.has("the monotonic clock"):
            until = float("inf")
        return Lease(holds_s, lambda: life.monotonic, lambda: life.wall, until, wall_until)

    def _renewed(self, life: Life, began: tuple[float, int]) -> tuple[float, float]:
        lease = self._lease(life)
        lease.renew(began if self.has("it counts from a beat's beginning") else lease.begin())
        return lease._until, lease._wall_until

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        if state.at < LAST:
            missed = state.suspended + state.asleep
            if state.leaves != "late":
                leaves = state.leaves and "late"
                later = state._replace(at=state.at + 1, suspended=missed, leaves=leaves)
                yield "2 seconds pass", later if state.buried else later._replace(silent=state.silent + 1)
        if state.luck and not state.set_back:
            yield "the clock is set back by an hour", state._replace(set_back=True, luck=state.luck - 1)
        if not state.buried and state.silent * TICK_S >= STALE_S:
            yield "the rescuer takes the worker for dead, and its turn back", state._replace(buried=True)
        elif not state.buried and state.told != state.silent:
            yield "the rescuer writes down its silence", state._replace(told=max(state.told, state.silent))
            yield "the rescuer dies, and another one watches", state._replace(silent=state.told)
        if state.asleep:
            yield "the machine wakes up", state._replace(asleep=False)
            return
        if state.luck and not state.leaves:
            yield "the machine is suspended", state._replace(asleep=True, luck=state.luck - 1)
        if state.beat is None:
            yield "a beat begins", state._replace(beat=self._lease(state).begin())
        elif not state.written:
            if not state.buried:
                told = 0 if self.has("a beat takes back the silence before it") else state.told
                yield "it is committed", state._replace(written=True, silent=0, told=told)
        else:
            after = state._replace(beat=None, written=False, lease=self._renewed(state, state.beat))
            yield "the worker hears of it", after
        if state.leaves:
            yield "a call reaches the wire", state._replace(leaves="", called_late=state.buried)
        elif self._lease(state).holds() or not self.has("lease before the wire"):
            yield "a call is let go", state._replace(leaves="now")

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.called_late:
            yield Promise.ONE_TURN

    def done(self, state: Life) -> bool:
        return state.at == LAST
