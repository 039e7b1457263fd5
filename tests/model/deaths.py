"""Three jobs of one turn that begins two at a time, and workers that die: by one of the jobs, or by whatever else.

The first job kills the process that makes its call; the others are innocent. A worker may be killed three times from
outside. What a death makes of a job, and when it is poison, is the product's own (`sendq.rules.preflight`,
`tasks.policy.decide`, `tests.model.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from sendq.rules.preflight import DEATHS_TOLERATED, objection
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import Job, decided, outcome_of

POISON = 0
WIDTH = 2
FENCE = 1


class Held(NamedTuple):
    """A job, whether the turn has loaded it, and at how many deaths it was begun, truly."""

    job: Job = Job(key_at=0)
    loaded: bool = False
    present: int = 0

    @property
    def begun(self) -> bool:
        return self.job.state == State.SENDING


class Life(NamedTuple):
    jobs: tuple[Held, ...] = (Held(), Held(), Held())
    kills: int = 3

    def having(self, number: int, held: Held) -> Life:
        job = held.job._replace(doubt_at=held.job.doubt_at and 0, attempts=0)
        return self._replace(jobs=(*self.jobs[:number], held._replace(job=job), *self.jobs[number + 1 :]))


class Deaths(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "only begun jobs are blamed": Promise.INNOCENT,
        "after two deaths it runs alone": Promise.DURABLE,
        "only a death alone makes it poison": Promise.INNOCENT,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        held = [number for number, one in enumerate(state.jobs) if one.loaded]
        begun = [number for number in held if state.jobs[number].begun]
        if not held and not self.done(state):
            yield "a turn loads its jobs", self._loaded(state)
        for number in held:
            one = state.jobs[number]
            if one.begun:
                yield self._call(state, number, one)
            elif len(begun) < WIDTH and number == min(set(held) - set(begun)):
                after = one._replace(job=one.job.begun(FENCE, now=0))
                yield f"job {number + 1} is begun", state.having(number, after)
        if held and state.kills:
            yield "somebody kills the worker", self._died(state._replace(kills=state.kills - 1))

    @staticmethod
    def _loaded(state: Life) -> Life:
        for number, one in enumerate(state.jobs):
            if one.job.state == State.QUEUED:
                event = objection(one.job, now=0)
                after = one._replace(loaded=True) if event is None else one._replace(job=one.job.moved(event))
                state = state.having(number, after)
        return state

    def _call(self, state: Life, number: int, one: Held) -> tuple[str, Life]:
        if number != POISON:
            sent = outcome_of(FENCE, Event.ACCEPT, generation=0, sent="yes")
            return f"job {number + 1} is sent", state.having(
                number, Held(one.job.recorded(sent, now=0), present=one.present)
            )
        if one.job.deaths < DEATHS_TOLERATED or not self.has("after two deaths it runs alone"):
            return "job 1 kills its worker", self._died(state)
        unknown = one.job.doubt_at is not None
        made = decided("died", one.job, begun_at=0, now=0, unknown_before=unknown)
        died = outcome_of(FENCE, made.event, generation=0, sent=made.sent.value, died=True)
        after = Held(one.job.recorded(died, now=0), present=one.present)
        return "job 1 kills the process in which it runs alone", state.having(number, after)

    def _died(self, state: Life) -> Life:
        """As `sendq.ledger.dispatching.rescue` brings back what a dead worker held."""
        after = state
        for number, one in enumerate(state.jobs):
            if not one.loaded:
                continue
            job = one.job.left_behind(now=0) if one.begun else one.job
            blamed = one.begun or not self.has("only begun jobs are blamed")
            if blamed:
                capped = self.has("only a death alone makes it poison")
                most = DEATHS_TOLERATED if capped else DEATHS_TOLERATED + 1
                job = job._replace(deaths=min(most, one.job.deaths + 1))
            after = after.having(number, Held(job, present=min(DEATHS_TOLERATED, one.present + one.begun)))
        return after

    def broken(self, state: Life) -> Iterator[Promise]:
        for number, one in enumerate(state.jobs):
            ended = one.job.state not in (State.QUEUED, State.SENDING, State.SENT)
            if number != POISON and (ended or one.job.deaths > one.present):
                yield Promise.INNOCENT

    def done(self, state: Life) -> bool:
        return all(one.job.state in FINAL | {State.IN_DOUBT} for one in state.jobs)
