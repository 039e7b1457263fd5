"""One send and a ledger that is put back to an earlier backup: what it has forgotten is not sent again.

Redis remembers how often the dispatcher's lease was renewed, and so does each worker. If the backup is restored in
place, one of them may forget; if it is restored on another server, both. A message in the broker may be of a turn that
the restored ledger knows. A tick is half an hour; the API forgets a key after two. Whether a ledger has lost something,
and what `recover` and the leader's own repair make of a job, is the product's own (`sendq.ledger.dispatching.lineage`,
`sendq.ledger.operators.recover`), and so are the check before a call and the time from which "not in the mailbox"
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from sendq.ledger.dispatching.lineage import Incomplete, Standing
from sendq.ledger.operators.recover import _doubted, _repeated
from sendq.rules.preflight import KEY_MAX_AGE, objection
from sendq.rules.reconcile import Delays, counts_from
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import MINUTE, Job, outcome_of

TICK = 30 * MINUTE
HOUR = 2  # ticks
START = 100
LAST = START + 4
DELAYS = Delays(settle=TICK, look_for=100 * TICK)
RENEWALS_MOST = 4
RENEWALS_AFTERWARDS = 2  # enough to offer a turn


class Ledger(NamedTuple):
    """What a backup holds."""

    job: Job = Job(due_at=START * TICK)
    fence: int = 0
    turn: str | None = None
    line: int = 1
    renewals: int = 1
    shut: bool = False
    complete: int = START  # the tick of the last renewal at which nothing was lost
    proven_on: int = 1

    def standing(self, server: int) -> Standing:
        shut_at = 0 if self.shut else None
        line, proven_on = UUID(int=self.line), f"{self.proven_on}@1"
        return Standing(line, self.renewals, self.complete, shut_at, None, None, None, 0, proven_on, f"{server}@1")


class Life(NamedTuple):
    """``witness``: what Redis remembers; ``known``: what the worker read last, ``seen``: what it found complete as the
    leader (line and renewals).
    """

    ledger: Ledger = Ledger()
    backup: Ledger | None = None
    restored: bool = False
    silent: int = 0  # renewals in the backup, until the worker beats: it does so as often as the lease is renewed
    witness: tuple[int, int] = (1, 1)
    known: tuple[int, int] | None = (1, 1)
    seen: tuple[int, int] | None = (1, 1)
    server: int = 1
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
        "what nobody remembers is not trusted": Promise.ONCE,
        "a repaired key is as old as the loss": Promise.ONCE,
        "Redis remembers": Promise.ONCE,
        "workers remember": Promise.ONCE,
        "a claim looks too": Promise.ONCE,
        "a new worker asks Redis": Promise.ONCE,
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
            yield "the backup is restored in place", put_back
            yield "the backup is restored on another server", put_back._replace(server=2, forgets=2)
        if state.restored and state.forgets:
            forgets = state.forgets - 1
            if state.witness != (0, 0):
                yield "Redis is flushed", state._replace(witness=(0, 0), forgets=forgets)
            if state.seen is not None:
                known = state.witness if state.witness != (0, 0) else None
                started = state._replace(known=known if self.has("a new worker asks Redis") else None, seen=None)
                yield "the worker is started again", started._replace(forgets=forgets, silent=0)
        yield from self._lead(state)
        yield from self._work(state)
        if ledger.job.state == State.IN_DOUBT:
            yield from self._look(state)

    def _lead(self, state: Life) -> Iterator[tuple[str, Life]]:
        """Renewals of the lease, each compared with the witness (`worker.leading.leadership`), beats, and `recover`."""
        ledger = state.ledger
        if ledger.shut:
            yield "an operator runs recover", self._recovered(state)
            if (state.now - ledger.complete) * TICK < KEY_MAX_AGE:
                yield "the leader repairs it", self._repaired(state)
        elif ledger.renewals < (RENEWALS_MOST if ledger.line == 1 else RENEWALS_AFTERWARDS) and not (
            state.silent and ledger.renewals > state.silent
        ):
            renewals = ledger.renewals + 1
            renewed = state.with_ledger(renewals=renewals)
            if (because := self._judged(renewed)) is not None:
                yield f"the lease is renewed, and the ledger is {because}", self._shut(renewed)
            else:
                whole = renewed.with_ledger(complete=state.now, proven_on=state.server)
                told = whole._replace(witness=(ledger.line, renewals), seen=(ledger.line, renewals))
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

    def _judged(self, renewed: Life) -> Incomplete | None:
        ledger = renewed.ledger
        witnesses = [renewed.witness if self.has("Redis remembers") else (ledger.line, ledger.renewals - 1)]
        witnesses += [renewed.seen] if renewed.seen is not None and self.has("workers remember") else []
        counts = [count for line, count in witnesses if line == ledger.line]
        because = ledger.standing(renewed.server).judged(max(counts, default=0))
        if because is Incomplete.UNPROVEN and not self.has("what nobody remembers is not trusted"):
            return None
        return because

    def _has_lost(self, state: Life) -> bool:
        if state.known is None or not self.has("workers remember"):
            return False
        line, renewals = state.known
        return state.ledger.standing(state.server).has_lost(UUID(int=line), renewals)

    def _shut(self, state: Life) -> Life:
        return state.with_ledger(shut=True) if self.has("a ledger that has lost something is shut") else state

    def _repaired(self, state: Life) -> Life:
        ledger, job, now = state.ledger, state.ledger.job, state.now * TICK
        row: Any = SimpleNamespace(**job._asdict(), id=None)
        if job.state == State.QUEUED:
            job = job.having(_repeated(row, since=ledger.complete * TICK, now=now))
            if not self.has("a repaired key is as old as the loss"):
                job = job._replace(key_at=now)
        elif job.state == State.IN_DOUBT:
            job = job.having(_doubted(row, now=now))
        return self._begun_anew(state, job)

    def _recovered(self, state: Life) -> Life:
        job, now = state.ledger.job, state.now * TICK
        if job.state in (State.QUEUED, State.SENDING):
            doubted = job.having(_doubted(SimpleNamespace(**job._asdict(), id=None), now=now))  # type: ignore[arg-type]
            if not self.has("a recovered key is as young as the recovery"):
                doubted = doubted._replace(key_at=job.key_at, doubt_at=None)
            if not self.has("recovered is not sent before it is looked for"):
                doubted = job._replace(state=State.QUEUED.value, turn=None)
            job = doubted
        return self._begun_anew(state, job)._replace(misses=0)

    @staticmethod
    def _begun_anew(state: Life, job: Job) -> Life:
        line = state.ledger.line + 1
        fresh = state.with_ledger(job=job, turn=None, shut=False, line=line, renewals=1, proven_on=state.server)
        return fresh._replace(witness=(line, 1), seen=(line, 1), known=(line, 1), forgets=0)

    def _work(self, state: Life) -> Iterator[tuple[str, Life]]:
        ledger, job = state.ledger, state.ledger.job
        if state.broker is not None:
            read = state._replace(broker=None)
            ours = ledger.turn == "offered" and ledger.fence == state.broker and job.state == State.QUEUED
            claimable = ledger.standing(state.server).may_be_claimed and not self._has_lost(state)
            if not self.has("a ledger that has lost something is shut"):
                claimable = not self._has_lost(state)
            whole = claimable or not self.has("a claim looks too")
            if ours and whole and objection(job, now=state.now * TICK) is Event.DOUBT:
                yield "the worker claims what is in doubt", read.with_ledger(turn=None, job=job.moved(Event.DOUBT))
            elif ours and whole:
                begun = job.begun(ledger.fence, now=state.now * TICK)
                claimed = read.with_ledger(turn="claimed", job=begun)._replace(calls=True)
                yield "the worker claims the turn", claimed
                if not state.restored:
                    yield "the worker claims the turn, whose message comes twice", claimed._replace(broker=state.broker)
            elif not ours:
                yield "the worker claims in vain", read
        if state.restored and ledger.turn is not None and not ledger.shut and not state.calls:
            left = job.left_behind(now=state.now * TICK) if job.state == State.SENDING else job
            if left.state == State.QUEUED and state.broker is None:
                yield "the turn is taken back", state.with_ledger(turn=None, job=left)
        if state.calls and objection(job, now=state.now * TICK) is None:
            yield "it calls, and that is recorded", self._called(state)
        elif state.calls:
            stays = state.with_ledger(job=job.moved(Event.DOUBT), turn=None) if job.state == State.SENDING else state
            yield "it does not call any more", stays._replace(calls=False)

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
