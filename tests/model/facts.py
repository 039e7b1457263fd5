"""One job and the outcomes that its calls bring: what is recorded of them, however late, often and out of order.

Whoever makes a call may be taken for dead, and dead or not, its outcome may come afterwards, or never; the next turn
calls with the same key or, when a person has said so, with a new one. Outcomes are recorded in any order; the answer to
a commit may be lost, and then it is repeated. What an outcome makes of the job is the product's own
(`tests.model.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple, cast

from sendq.facts.jobs import LockedJob
from sendq.rules.job_change import sent_with_another_key
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import Job, outcome_of

TURNS = 3


class Call(NamedTuple):
    """Made in a turn. ``stands``: made | told | lost. ``sent``: it brought the answer that it was accepted."""

    fence: int
    generation: int
    sent: bool
    stands: str = "made"
    again: bool = False  # the answer to its commit was lost


class Life(NamedTuple):
    """``fence``: of the lane's last turn. ``mails``: generations that went out. ``trail``: attempts in the ledger."""

    job: Job = Job()
    fence: int = 0
    open: bool = False  # whether that turn is open
    calls: tuple[Call, ...] = ()
    mails: frozenset[int] = frozenset()
    trail: tuple[int, ...] = ()
    alarm: bool = False
    resent: bool = False  # by a person
    luck: int = 2

    def with_call(self, call: Call) -> Life:
        others = (other for other in self.calls if other.fence != call.fence)
        return self._replace(calls=tuple(sorted([*others, call])))


class Facts(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "facts are never fenced": Promise.TRUE,
        "a return needs its fence": Promise.ONCE,
        "outcomes carry an id": Promise.TRUE,
        "what went out names its generation": Promise.TRUE,
        "one key is one mail": Promise.TRUE,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        for step, after in self._steps(state):
            job = after.job._replace(key_at=0, doubt_at=after.job.doubt_at and 0, deaths=0, attempts=0)
            yield step, after._replace(job=job)

    def _steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        if job.state == State.QUEUED and not state.open and state.fence < TURNS:
            fence = state.fence + 1
            yield f"turn {fence} begins it", state._replace(job=job.begun(fence, now=0), fence=fence, open=True)
        if state.open and job.in_turn(state.fence):
            yield from self._call(state)
        if state.open:
            yield from self._bury(state)
        for call in state.calls:
            if call.stands == "made" or call.again:
                yield from self._record(state, call)
                if not state.open or call.fence != state.fence:
                    yield (
                        f"turn {call.fence} is never heard of again",
                        state.with_call(call._replace(stands="told" if call.again else "lost", again=False)),
                    )
        if job.state == State.IN_DOUBT:
            again = job.moved(Event.RETURN)._replace(generation=job.generation + 1, doubt_at=None)
            yield "a person has it sent again", state._replace(job=again, resent=True)
            yield "a person gives it up", state._replace(job=job.moved(Event.GIVE_UP))
        if state.fence == TURNS and not state.open and job.state == State.QUEUED:
            yield "it is given up", state._replace(job=job.moved(Event.GIVE_UP))

    @staticmethod
    def _bury(state: Life) -> Iterator[tuple[str, Life]]:
        words, job = f"the worker of turn {state.fence} is taken for dead", state.job
        closed = state._replace(open=False)
        if not job.in_turn(state.fence):
            yield words, closed
            return
        yield words, closed._replace(job=job.left_behind(now=0))
        doubted = job.moved(Event.DOUBT)._replace(doubt_at=0, turn=None, begun_at=None)
        yield f"{words}, and the key is too old", closed._replace(job=doubted)

    @staticmethod
    def _call(state: Life) -> Iterator[tuple[str, Life]]:
        fence, generation = state.fence, state.job.generation
        if any(call.fence == fence for call in state.calls):
            return
        accepted = state.with_call(Call(fence, generation, sent=True))
        yield f"the call of turn {fence} is accepted", accepted._replace(mails=state.mails | {generation})
        if generation not in state.mails:
            refused = state.with_call(Call(fence, generation, sent=False))
            yield f"the call of turn {fence} is refused by the gate", refused

    def _record(self, state: Life, call: Call) -> Iterator[tuple[str, Life]]:
        number, told = call.fence, call._replace(stands="told", again=False)
        words = f"the outcome of turn {number} is recorded" + (" once more" if call.again else "")
        after = self._recorded(state, call)
        yield words, after.with_call(told)
        if state.luck:
            yield (
                f"{words}, and the answer is lost",
                after.with_call(told._replace(again=True))._replace(luck=state.luck - 1),
            )

    def _recorded(self, state: Life, call: Call) -> Life:
        """As `sendq.ledger.dispatching.record` has it: the attempt by its id, then the job, then the lane's slot."""
        if call.fence in state.trail and self.has("outcomes carry an id"):
            return state
        job, fence = state.job, call.fence
        in_turn = job.in_turn(fence)
        outcome = outcome_of(
            fence,
            Event.ACCEPT if call.sent else Event.RETURN,
            generation=call.generation,
            sent="yes" if call.sent else "no" if job.doubt_at is None or not in_turn else "maybe",
            new_generation=not call.sent and (job.doubt_at is None or not in_turn),
        )
        late = not in_turn and job.state == State.SENT
        if self.has("one key is one mail"):
            alarm = late and sent_with_another_key(cast(LockedJob, job), outcome)
        else:
            alarm = late and call.sent
        after = job.recorded(outcome, now=0)
        if not in_turn and not self.has("facts are never fenced"):
            after = job
        if not call.sent and job.state == State.SENDING and not self.has("a return needs its fence"):
            after = job.after(outcome, now=0)
        if call.sent and not self.has("what went out names its generation"):
            after = after._replace(generation=job.generation)
        still_open = state.open and state.fence != fence
        trail = (*state.trail, fence)
        return state._replace(job=after, open=still_open, trail=trail, alarm=state.alarm or alarm)

    def broken(self, state: Life) -> Iterator[Promise]:
        job = state.job
        sent = {call.generation for call in state.calls if call.stands == "told" and call.sent}
        if len(state.mails) > 1 and not state.resent:
            yield Promise.ONCE
        if sent and job.state != State.SENT:
            yield Promise.TRUE  # the ledger was told that it went out
        if job.state == State.SENT and job.generation not in sent:
            yield Promise.TRUE  # it names a key that nothing went out with
        if state.alarm != (len(sent) > 1):
            yield Promise.TRUE  # two mails and no alarm, or an alarm about a mail that there is not
        if len(state.trail) != len(set(state.trail)):
            yield Promise.TRUE  # calls that were not made

    def done(self, state: Life) -> bool:
        waiting = any(call.stands == "made" or call.again for call in state.calls)
        return state.job.state in FINAL and not waiting
