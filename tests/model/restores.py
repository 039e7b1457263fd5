"""One send and a ledger that is put back to an earlier backup: what it has forgotten is not sent again.

Redis remembers how often the dispatcher's lease was renewed, and so does each worker; one of them may forget. A
message in the broker may be of a turn that the restored ledger knows. What is lost is longer than two renewals. A tick
is half an hour; the API forgets a key after two. Whether a ledger has lost something, and what `recover` makes of a
job, is the product's own (`sendq.ledger.dispatching.lineage`, `sendq.ledger.operators.recover`), and so is the time
from which "not in the mailbox" counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from sendq.ledger.dispatching.lineage import Standing
from sendq.ledger.operators.recover import _doubted
from sendq.rules.reconcile import Delays, counts_from
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import MINUTE, Job, outcome_of

TICK = 30 * MINUTE
HOUR = 2  # ticks
START = 100
LAST = START + 5
DELAYS = Delays(settle=TICK, look_for=100 * TICK)
RENEWALS_MOST = 4


class Ledger(NamedTuple):
    """What a backup holds."""

    job: Job = Job(due_at=START * TICK)
    fence: int = 0
    turn: str | None = None
    line: int = 1
    renewals: int = 1
    shut: bool = False

    @property
    def standing(self) -> Standing:
        shut_at = 0 if self.shut else None
        return Standing(UUID(int=self.line), self.renewals, 0, shut_at, None, 0)


class Life(NamedTuple):
    """``witness``: what Redis remembers, ``known``: what the worker does (line and renewals)."""

    ledger: Ledger = Ledger()
    backup: Ledger | None = None
    restored: bool = False
    silent: int = 0  # renewals in the backup, until the worker beats: it does so as often as the lease is renewed
    witness: tuple[int, int] = (1, 1)
    known: tuple[int, int] | None = (1, 1)
    broker: int | None = None
    calls: bool = False
    now: int = START
    key: tuple[int, int] | None = None  # generation, and when it was first used
    out: int = 0  # when the first mail went
    mails: int = 0
    misses: int = 0
    forgets: int = 1

    def with_ledger(self, **changes: Any) -> Life:
        return self._replace(ledger=self.ledger._replace(**changes))


class Restores(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "a ledger that has lost something is shut": Promise.ONCE,
        "Redis remembers": Promise.ONCE,
        "workers remember": Promise.ONCE,
        "a claim looks too": Promise.ONCE,
        "recovered is not sent before it is looked for": Promise.ONCE,
        "a recovered key is as young as the recovery": Promise.ONCE,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        ledger = state.ledger
        if state.restored and ledger.job.state in FINAL and not state.calls:
            return
        if state.now < LAST:
            yield "half an hour passes", state._replace(now=state.now + 1)
        if state.backup is None and state.now == START:
            yield "a backup is made", state._replace(backup=ledger)
        elif state.backup and not state.restored and state.known and state.known[1] > state.backup.renewals + 1:
            put_back = state._replace(ledger=state.backup, restored=True, silent=state.backup.renewals)
            yield "the backup is restored", put_back
        if state.restored and state.forgets:
            yield "Redis is flushed", state._replace(witness=(0, 0), forgets=0)
            yield "the worker is started again", state._replace(known=None, forgets=0, silent=0)
        yield from self._lead(state)
        yield from self._work(state)
        if ledger.job.state == State.IN_DOUBT:
            yield from self._look(state)

    def _lead(self, state: Life) -> Iterator[tuple[str, Life]]:
        """Renewals of the lease, each compared with the witness (`worker.leading.leadership`), beats, and `recover`."""
        ledger = state.ledger
        if ledger.shut:
            recovered = self._recovered(state)
            yield "somebody runs recover", recovered
        elif ledger.renewals < RENEWALS_MOST and not (state.silent and ledger.renewals > state.silent):
            renewals = ledger.renewals + 1
            renewed = state.with_ledger(renewals=renewals)
            line, seen = state.witness
            if line == ledger.line and seen >= renewals and self.has("Redis remembers"):
                yield "the lease is renewed, and Redis has seen more", self._shut(renewed)
            else:
                told = renewed._replace(witness=(ledger.line, renewals))
                yield "the lease is renewed", told
                if ledger.turn is None and ledger.job.state == State.QUEUED and self._open(ledger):
                    fence = ledger.fence + 1
                    offered = told.with_ledger(turn="offered", fence=fence)
                    yield f"the lease is renewed, and turn {fence} is offered", offered._replace(broker=fence)
        if self._has_lost(state):
            yield "the worker beats, and knows more than the ledger", self._shut(state)._replace(silent=0)
        elif state.known != (ledger.line, ledger.renewals):
            yield "the worker beats", state._replace(known=(ledger.line, ledger.renewals), silent=0)

    def _open(self, ledger: Ledger) -> bool:
        return not ledger.shut or not self.has("a ledger that has lost something is shut")

    def _has_lost(self, state: Life) -> bool:
        if state.known is None or not self.has("workers remember"):
            return False
        line, renewals = state.known
        return state.ledger.standing.has_lost(UUID(int=line), renewals)

    def _shut(self, state: Life) -> Life:
        return state.with_ledger(shut=True) if self.has("a ledger that has lost something is shut") else state

    def _recovered(self, state: Life) -> Life:
        ledger, job, now = state.ledger, state.ledger.job, state.now * TICK
        if job.state in (State.QUEUED, State.SENDING):
            doubted = job.having(_doubted(SimpleNamespace(**job._asdict(), id=None), now=now))  # type: ignore[arg-type]
            if not self.has("a recovered key is as young as the recovery"):
                doubted = doubted._replace(key_at=job.key_at, doubt_at=None)
            if not self.has("recovered is not sent before it is looked for"):
                doubted = job._replace(state=State.QUEUED.value, turn=None)
            job = doubted
        line = ledger.line + 1
        return state.with_ledger(job=job, turn=None, shut=False, line=line, renewals=1)._replace(
            witness=(line, 1), misses=0
        )

    def _work(self, state: Life) -> Iterator[tuple[str, Life]]:
        ledger, job = state.ledger, state.ledger.job
        if state.broker is not None:
            read = state._replace(broker=None)
            ours = ledger.turn == "offered" and ledger.fence == state.broker and job.state == State.QUEUED
            whole = (self._open(ledger) and not self._has_lost(state)) or not self.has("a claim looks too")
            if ours and whole:
                begun = job.begun(ledger.fence, now=state.now * TICK)
                yield "the worker claims the turn", read.with_ledger(turn="claimed", job=begun)._replace(calls=True)
            elif not ours:
                yield "the worker claims in vain", read
        if state.restored and ledger.turn is not None and not ledger.shut and not state.calls:
            left = job.left_behind(now=state.now * TICK) if job.state == State.SENDING else job
            if left.state == State.QUEUED and state.broker is None:
                yield "the turn is taken back", state.with_ledger(turn=None, job=left)
        if state.calls:
            yield "it calls, and that is recorded", self._called(state)

    @staticmethod
    def _called(state: Life) -> Life:
        job = state.ledger.job
        fresh = state.key is None or state.key[0] != job.generation or state.now - state.key[1] >= HOUR
        after = state._replace(calls=False)
        if fresh:
            key = (job.generation, state.now)
            after = after._replace(key=key, out=state.out or state.now, mails=state.mails + 1)
        outcome = outcome_of(state.ledger.fence, Event.ACCEPT, generation=job.generation, sent="yes")
        recorded = job.recorded(outcome, now=state.now * TICK)
        return after.with_ledger(job=recorded, turn=None)

    @staticmethod
    def _look(state: Life) -> Iterator[tuple[str, Life]]:
        """A look that counts; what went out is listed once the settling delay is over."""
        job = state.ledger.job
        if state.now * TICK < counts_from(job, DELAYS):
            return
        if state.out and state.now - state.out >= 1:
            yield "it is found in the mailbox", state.with_ledger(job=job.moved(Event.ACCEPT))
        elif state.misses == 0:
            yield "it is not found", state._replace(misses=1)
        else:
            again = job.moved(Event.RETURN)._replace(generation=job.generation + 1, key_at=None, doubt_at=None)
            yield "it is not found again, and returns under a new key", state.with_ledger(job=again)

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.mails > 1:
            yield Promise.ONCE

    def done(self, state: Life) -> bool:
        waits = state.ledger.job.state in FINAL or state.ledger.job.state == State.IN_DOUBT
        return waits or state.now == LAST or state.ledger.renewals == RENEWALS_MOST
