"""One lane, the jobs that are committed to it, and the dispatcher's rounds: who is woken, and who sleeps on.

Two transactions take their ids in one order and commit in the other. A turn of the lane ends in several statements,
between which others commit; the job that it ran comes back for a retry. The dispatcher looks for wake rows where its
floors (`sendq.rules.floors`) tell it to begin. A tick is 11 seconds, longer than the lag that the floors leave. The
clock may be set back by an hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from sendq.clock import SECOND, Micros
from sendq.ledger.dispatching.waking import lower
from sendq.rules.floors import Floors
from sendq.rules.pace import next_turn_at
from tests.model.explorer import Promise, World

TICK: Micros = 11 * SECOND
LAST = 8
LAST_COMMIT = 4  # so that there is time left for a look at everything
START = 1_000


class Life(NamedTuple):
    """``jobs``: open | committed | running | retry | done, by transaction; ``wakes``: ids of committed wake rows.

    ``ends``: how far the turn's end has come; ``scan``: what it found.
    """

    jobs: tuple[str, str] = ("open", "open")
    wakes: frozenset[int] = frozenset()
    at: int = 0
    set_back: bool = False
    floor: int = 0
    taken: tuple[tuple[Micros, int], ...] = ()
    whole_at: Micros = 0
    looked: bool = False  # in this tick
    next_at: Micros | None = None
    mark: Micros = 0
    turn: bool = False
    locked: bool = False
    ends: str = ""  # scanned
    scan: Micros | None = None
    luck: int = 1

    @property
    def now(self) -> Micros:
        return (START - self.set_back * 400 + self.at) * TICK

    def due(self, number: int) -> Micros:
        """When a job wants to begin, also after its return: behind a hold it keeps its place."""
        return (START - 900 + number) * TICK

    def with_job(self, number: int, state: str) -> Life:
        jobs = list(self.jobs)
        jobs[number] = state
        return self._replace(jobs=(jobs[0], jobs[1]))


class Wakes(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "lock the lane, then look for its jobs": Promise.AWAKE,
        "a wake row for each call": Promise.AWAKE,
        "a wake lowers the mark": Promise.AWAKE,
        "a return lowers the mark": Promise.AWAKE,
        "lower ids may commit later": Promise.DURABLE,
        "a look at everything now and then": Promise.DURABLE,
        "a clock that was set back": Promise.DURABLE,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        late = state.at == LAST_COMMIT and "open" in state.jobs
        if state.at < LAST and state.looked and not late:
            yield "11 seconds pass", state._replace(at=state.at + 1, looked=False)
        if state.luck and state.at:
            yield "the clock is set back by an hour", state._replace(set_back=True, luck=0)
        for number, job in enumerate(state.jobs):
            if job == "open" and state.at <= LAST_COMMIT:
                after = state.with_job(number, "committed")
                if self.has("a wake row for each call"):
                    after = after._replace(wakes=state.wakes | {number + 1})
                yield f"transaction {number + 1} commits its job", after
        if not state.looked and not state.locked:
            yield from self._look(state)
        if state.next_at is not None and not state.turn:
            yield "the lane gets a turn, which takes the jobs that it sees", self._run(state)
        if state.turn:
            yield from self._end(state)

    def _look(self, state: Life) -> Iterator[tuple[str, Life]]:
        """The dispatcher looks for wake rows, at least once in a tick."""
        floors = self._floors(state)
        above = state.floor if not self.has("lower ids may commit later") else floors.wake_id
        found = sorted(wake for wake in state.wakes if wake > above)
        floors.woken(found, state.now)
        after = state._replace(
            looked=True,
            wakes=state.wakes - set(found),
            floor=floors.wake_id if self.has("lower ids may commit later") else max([above, *found]),
            taken=tuple(floors._taken),
            whole_at=floors._whole_at,
        )
        if found:
            marks = (state.mark, 0, 0)
            for wake in found if self.has("a wake lowers the mark") else ():
                marks = lower(marks, 0, state.due(wake - 1))
            first = next_turn_at(state.now, ready_at=0, held_until=None, closed=False)
            assert first is not None
            wanted = first if state.next_at is None else min(first, state.next_at)
            after = after._replace(next_at=wanted, mark=marks[0])
        yield f"the dispatcher takes wake rows {found}", after

    def _floors(self, state: Life) -> Floors:
        floors = Floors()
        floors.wake_id, floors._whole_at = state.floor, state.whole_at
        floors._taken.extend(state.taken)
        whole_at, now = state.whole_at, state.now
        blind = not self.has("a look at everything now and then") and whole_at > 0
        trusting = not self.has("a clock that was set back") and now < whole_at
        if not blind and not trusting:
            floors.begin(now)
        return floors

    @staticmethod
    def _waiting(state: Life) -> list[int]:
        """The jobs that a scan from the mark finds."""
        return [n for n, job in enumerate(state.jobs) if job in ("committed", "retry") and state.due(n) >= state.mark]

    def _run(self, state: Life) -> Life:
        after = state._replace(turn=True)
        for number in self._waiting(state):
            after = after.with_job(number, "running" if state.jobs[number] == "committed" else "last try")
        return after

    def _end(self, state: Life) -> Iterator[tuple[str, Life]]:
        """Outcomes one by one, and then the turn's end: lock the lane, look which jobs wait, write the lane."""
        running = [number for number, job in enumerate(state.jobs) if job in ("running", "last try")]
        for number in running:
            yield f"the outcome of job {number + 1} is recorded", self._recorded(state, number)
        if state.ends:
            wanted = next_turn_at(state.scan, ready_at=0, held_until=None, closed=False)
            after = self._settled(state, state.scan)
            after = after._replace(turn=False, locked=False, ends="", scan=None, next_at=wanted)
            yield "the turn's end is committed", after
        elif not running:
            locked = self.has("lock the lane, then look for its jobs")
            words = "locks the lane, and looks" if locked else "looks, and then waits for the lane"
            yield f"the turn's end {words}", state._replace(locked=locked, ends="looked", scan=self._scan(state))

    def _recorded(self, state: Life, number: int) -> Life:
        """The first try of a job is in vain, the second not."""
        if state.jobs[number] == "last try":
            after = state.with_job(number, "done")
        else:
            after = state.with_job(number, "retry")
            if self.has("a return lowers the mark"):
                after = after._replace(mark=lower((after.mark, 0, 0), 0, after.due(number))[0])
        return self._settled(after, self._scan(after))

    def _scan(self, state: Life) -> Micros | None:
        return min((state.due(number) for number in self._waiting(state)), default=None)

    @staticmethod
    def _settled(state: Life, scan: Micros | None) -> Life:
        """As `sendq.ledger.dispatching.lanes.write_changes` moves the mark."""
        return state._replace(mark=state.now if scan is None else scan)

    def broken(self, state: Life) -> Iterator[Promise]:
        for number, job in enumerate(state.jobs):
            waits = job in ("committed", "retry") and number + 1 not in state.wakes
            if waits and not state.turn and (state.next_at is None or state.due(number) < state.mark):
                yield Promise.AWAKE

    def done(self, state: Life) -> bool:
        return state.jobs == ("done", "done")
