"""One lane with one job, two dispatchers who both lead, a broker and two workers: who may call, and who acts.

An offered turn goes through the broker, or the dispatcher's own process takes it, or its dispatcher claims it for that
process in the transaction that offers it. The broker loses, keeps and doubles messages. A worker may die, freeze and
wake up at any point; one that was silent may be taken for dead, and by then its lease is over (`tests.model.leases`
holds that). The answer to a claim may be lost, and an outcome may be one that cannot be recorded. The clock stands
still here: keys are always young. Three things may go wrong in one life, or two where a protection is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from sendq.rules.pace import next_turn_at
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import Job, outcome_of

FENCES_MOST = 8


class Worker(NamedTuple):
    """``hand``: the turn that it carries out, under which name and how far; ``reads``: a message that it took."""

    name: int
    up: str = "up"  # up | frozen | dead
    lease: bool = True
    reads: int | None = None
    hand: tuple[int, int, str] | None = None  # fence, name, claimed | begun | answered
    lost: bool = False  # a claim had no answer


class Life(NamedTuple):
    """``known``: the workers that the ledger believes in; ``sees``: dispatchers who have read that the lane is due."""

    luck: int
    job: Job = Job()
    fence: int = 0
    turn: str | None = None
    owner: int | None = None
    wants: bool = True
    sees: tuple[bool, bool] = (False, False)
    broker: tuple[int, ...] = ()
    workers: tuple[Worker, ...] = (Worker(1), Worker(2))
    known: tuple[int, ...] = (1, 2)


class Turns(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "a turn is offered by compare and set": Promise.ONE_TURN,
        "the fence only grows": Promise.ONE_TURN,
        "a turn is claimed by compare and set": Promise.ONE_TURN,
        "an end needs its fence": Promise.ONE_TURN,
        "in hand before it is claimed": Promise.ONE_TURN,
        "unclaimed turns are taken back": Promise.DURABLE,
        "the dead are buried": Promise.DURABLE,
        "strays are taken back": Promise.DURABLE,
        "a claim in vain looks for strays": Promise.DURABLE,
        "a round without an answer looks for strays": Promise.DURABLE,
        "turns of the forgotten are taken back": Promise.DURABLE,
        "orphans are taken back": Promise.DURABLE,
    }

    def first(self) -> Iterator[Life]:
        yield Life(luck=3 if self.whole else 2)

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        if self.done(state):
            return
        for step, after in self._steps(state):
            # Numbers that no longer tell anything apart.
            job = after.job._replace(key_at=0, doubt_at=None, begun_at=None, deaths=0)
            yield step, after._replace(job=job, broker=tuple(sorted(after.broker)))

    def _steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        for leader in range(2):
            yield from self._dispatch(state, leader)
        if state.luck:
            for place, fence in enumerate(state.broker):
                less = state.broker[:place] + state.broker[place + 1 :]
                unlucky = state._replace(luck=state.luck - 1)
                yield f"the broker loses turn {fence}", unlucky._replace(broker=less)
                yield f"the broker doubles turn {fence}", unlucky._replace(broker=(*state.broker, fence))
        for place, worker in enumerate(state.workers):
            for step, after, changed in self._work(state, worker):
                workers = list(after.workers)
                workers[place] = changed
                yield f"worker {place + 1} {step}", after._replace(workers=tuple(workers))
        yield from self._rescue(state)

    # --- the dispatchers ----------------------------------------------------------------------------------------------

    def _dispatch(self, state: Life, leader: int) -> Iterator[tuple[str, Life]]:
        others = state.sees[1 - leader]
        if not state.sees[leader]:
            if state.wants and state.turn is None and state.luck >= leader:
                sees = (True, others) if leader == 0 else (others, True)
                luck = state.luck - leader  # that a second one leads is bad luck
                yield f"dispatcher {leader + 1} sees that the lane is due", state._replace(sees=sees, luck=luck)
            return
        after = state._replace(sees=(False, others) if leader == 0 else (others, False))
        free = state.turn is None or not self.has("a turn is offered by compare and set")
        if not free or state.fence == FENCES_MOST:
            yield f"dispatcher {leader + 1} comes too late", after
            return
        fence = state.fence + 1 if self.has("the fence only grows") else 1
        offered = after._replace(turn="offered", owner=None, fence=fence)
        yield f"dispatcher {leader + 1} offers turn {fence}", offered._replace(broker=(*state.broker, fence))
        worker = state.workers[leader]  # of the same process
        if _is_free(worker):
            workers = list(state.workers)
            workers[leader] = worker._replace(reads=fence)
            taken = offered._replace(workers=tuple(workers))
            yield f"dispatcher {leader + 1} offers turn {fence} to its own process", taken
            yield from self._claim_at_once(offered, leader, fence)

    def _claim_at_once(self, offered: Life, leader: int, fence: int) -> Iterator[tuple[str, Life]]:
        """The turn is offered and claimed by one transaction; its answer may be lost."""
        worker = offered.workers[leader]
        job = offered.job.begun(fence, now=0) if offered.job.state == State.QUEUED else offered.job
        claimed = offered._replace(turn="claimed", owner=worker.name, job=job)
        how_far = "begun" if self.has("in hand before it is claimed") else "claimed"
        has_it = worker._replace(hand=(fence, worker.name, how_far))
        words = f"dispatcher {leader + 1} offers turn {fence} and claims it at once"
        yield words, claimed._replace(workers=_with(claimed.workers, leader, has_it))
        if claimed.luck:
            looks = worker._replace(lost=worker.lost or self.has("a round without an answer looks for strays"))
            unlucky = claimed._replace(luck=claimed.luck - 1, workers=_with(claimed.workers, leader, looks))
            yield f"{words}, and the answer is lost", unlucky

    # --- a worker -----------------------------------------------------------------------------------------------------

    def _work(self, state: Life, worker: Worker) -> Iterator[tuple[str, Life, Worker]]:
        unlucky = state._replace(luck=state.luck - 1)
        if worker.up == "frozen":
            yield "wakes up", state, worker._replace(up="up")
        if worker.up == "dead" and worker.name not in state.known:
            yield from self._reborn(state, worker, "is started again")
        if worker.up != "up":
            return
        if state.luck:
            yield "freezes", unlucky, worker._replace(up="frozen")
            yield "dies", unlucky, Worker(worker.name, "dead", lease=False)
            if not worker.lost:
                yield "gets no answer to the claim of another lane", unlucky, worker._replace(lost=True)
        if worker.name not in state.known:
            yield from self._reborn(state, worker, "beats, and hears that it was taken for dead")
        for fence in sorted(set(state.broker)):
            if _is_free(worker):
                broker = list(state.broker)
                broker.remove(fence)
                yield f"takes turn {fence}", state._replace(broker=tuple(broker)), worker._replace(reads=fence)
        if worker.reads is not None:
            yield from self._claim(state, worker, worker.reads)
        if worker.hand is not None:
            yield from self._carry_out(state, worker, *worker.hand)
        if worker.lost and self.has("strays are taken back"):
            in_flight = {worker.reads, worker.hand and worker.hand[0]}
            if worker.hand is not None and worker.hand[2] == "claimed":
                in_flight = set()
            ours = state.turn == "claimed" and state.owner == worker.name and state.fence not in in_flight
            yield "looks for strays", self._closed(state) if ours else state, worker._replace(lost=False)

    @staticmethod
    def _reborn(state: Life, worker: Worker, words: str) -> Iterator[tuple[str, Life, Worker]]:
        name = worker.name + 2
        known = tuple(sorted((*state.known, name)))
        yield words, state._replace(known=known), worker._replace(name=name, up="up", lease=True)

    def _claim(self, state: Life, worker: Worker, fence: int) -> Iterator[tuple[str, Life, Worker]]:
        ours = state.turn == "offered" and state.fence == fence
        if not ours and self.has("a turn is claimed by compare and set"):
            again = worker.lost or self.has("a claim in vain looks for strays")
            yield f"claims turn {fence} in vain", state, worker._replace(reads=None, lost=again)
            return
        job = state.job.begun(fence, now=0) if state.job.state == State.QUEUED else state.job
        claimed = state._replace(turn="claimed", owner=worker.name, job=job)
        how_far = "begun" if self.has("in hand before it is claimed") else "claimed"
        yield f"claims turn {fence}", claimed, worker._replace(reads=None, hand=(fence, worker.name, how_far))
        if state.luck:
            unlucky = claimed._replace(luck=state.luck - 1)
            yield f"claims turn {fence}, and the answer is lost", unlucky, worker._replace(reads=None, lost=True)

    def _carry_out(
        self, state: Life, worker: Worker, fence: int, name: int, how_far: str
    ) -> Iterator[tuple[str, Life, Worker]]:
        free = worker._replace(hand=None)
        if how_far == "claimed":
            yield "writes down that it has it in hand", state, worker._replace(hand=(fence, name, "begun"))
        elif how_far == "answered":
            yield "records it", self._recorded(state, fence, Event.ACCEPT), free
            if state.luck:
                lost = self._ended(state._replace(luck=state.luck - 1), fence)
                yield "cannot record it, and ends its turn", lost, free
        elif not state.job.in_turn(fence):
            yield "has nothing to call for", self._ended(state, fence), free
        elif _may_call(worker):
            yield "calls", state, worker._replace(hand=(fence, name, "answered"))
        else:
            yield "may not call any more", self._recorded(state, fence, Event.RETURN), free

    # --- the ledger ---------------------------------------------------------------------------------------------------

    def _recorded(self, state: Life, fence: int, event: Event) -> Life:
        outcome = outcome_of(fence, event, generation=0 if event is Event.ACCEPT else None)
        return self._ended(state._replace(job=state.job.recorded(outcome, now=0)), fence)

    def _ended(self, state: Life, fence: int) -> Life:
        named = state.fence == fence or not self.has("an end needs its fence")
        return self._settled(state, closing=state.turn == "claimed" and named)

    def _closed(self, state: Life) -> Life:
        job = state.job.left_behind(now=0) if state.job.in_turn(state.fence) else state.job
        return self._settled(state._replace(job=job), closing=True)

    @staticmethod
    def _settled(state: Life, *, closing: bool) -> Life:
        if not closing:
            return state
        waiting = 0 if state.job.state == State.QUEUED else None
        wants = next_turn_at(waiting, ready_at=0, held_until=None, closed=False) is not None
        return state._replace(turn=None, owner=None, wants=wants)

    def _rescue(self, state: Life) -> Iterator[tuple[str, Life]]:
        if state.turn == "offered" and self.has("unclaimed turns are taken back"):
            lost = state.fence not in state.broker and all(worker.reads != state.fence for worker in state.workers)
            if lost:
                yield "the rescuer takes the turn back, which nobody claimed", self._settled(state, closing=True)
            elif state.luck:
                slow = self._settled(state._replace(luck=state.luck - 1), closing=True)
                yield "the rescuer takes the turn back, whose message is slow", slow
        for name in state.known:
            if self.has("the dead are buried") and not any(w.name == name and w.up == "up" for w in state.workers):
                after = self._closed(state) if state.turn == "claimed" and state.owner == name else state
                workers = tuple(w._replace(lease=False) if w.name == name else w for w in state.workers)
                known = tuple(other for other in state.known if other != name)
                yield f"worker {2 - name % 2} is buried", after._replace(workers=workers, known=known)
        forgotten = state.turn == "claimed" and state.owner not in state.known
        if forgotten and self.has("turns of the forgotten are taken back"):
            yield "the rescuer takes the turn of a forgotten worker back", self._closed(state)
        over = state.turn is None or state.fence != state.job.turn
        if state.job.state == State.SENDING and over and self.has("orphans are taken back"):
            returned = state._replace(job=state.job.left_behind(now=0))
            yield "the rescuer takes the orphan back", returned._replace(wants=True)

    # --- what is promised ---------------------------------------------------------------------------------------------

    def broken(self, state: Life) -> Iterator[Promise]:
        if sum(_may_call(worker) for worker in state.workers) > 1:
            yield Promise.ONE_TURN

    def done(self, state: Life) -> bool:
        return state.job.state in FINAL and state.turn is None


def _with(workers: tuple[Worker, ...], place: int, worker: Worker) -> tuple[Worker, ...]:
    return (*workers[:place], worker, *workers[place + 1 :])


def _is_free(worker: Worker) -> bool:
    """Whether it may take a turn."""
    return worker.up == "up" and worker.lease and worker.reads is None and worker.hand is None


def _may_call(worker: Worker) -> bool:
    """Whether it has a turn in hand and may begin a call of it now."""
    if worker.up != "up" or not worker.lease or worker.hand is None:
        return False
    _, name, how_far = worker.hand
    return name == worker.name and how_far == "begun"
