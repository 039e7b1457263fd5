"""One send, its idempotency key, and two clocks: what may be asked again, and when it may not.

The API keeps a key for an hour from its first request, with whatever it answered, errors included; afterwards the same
key is new mail. A call may go out and be answered badly, or not at all; a request may hang in there ("in progress").
The API's gates (rate limit, throttle, the grant, the request itself) may refuse a call. In one world they stand before
the store of keys: a refusal is not kept, and says nothing about an earlier request. In the other they stand behind it:
a repeat finds what the first request was answered. It is documented nowhere which of the two is ours. The worker may
die at any moment and its clock may be set back by an hour; the caller may cancel the job, which also has a time of its
own. Any time may pass between any two steps. Two things may go wrong in one life.

Three find a way that is left: the clock is set back; the key, which was never used, is refused a connection by the old
time; it is used at the end of that very hour, nobody hears of the outcome before the clock has caught up, and in all
that hour no answer of the API has said what time it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from sendq.clock import Micros
from sendq.facts.outcomes import Sent
from sendq.rules.job_change import cancel_event
from sendq.rules.preflight import KEY_MAX_AGE, objection, trusted_age
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import ANSWERS, GATES, MINUTE, Job, decided, outcome_of

TICK: Micros = 15 * MINUTE
HOUR = 4  # ticks
NOW: Micros = 100 * TICK  # the workers' clock always shows this: it is what was written down that moves away
OLDEST: Micros = NOW - 9 * TICK  # what is older is as good as this old, even by a clock that was set back
TURN = 3  # ticks that a turn may last at the most, and far more than it does
FOR_EVER: Micros = 1 << 60

REFUSED, FOR_GOOD = "refused by the provider", "refused for good"


_TIMES = ("key_at", "begun_at", "expires_at")


class Life(NamedTuple):
    """``key``: for how many ticks the API has known it, and what it answers to it."""

    job: Job
    phase: str = "waiting"  # waiting | loaded | begun | answered
    answer: str | None = None
    begun_at: Micros = 0  # the call
    key: tuple[int, str] | None = None
    mails: int = 0
    shaky: bool = False  # the workers' clock may be set back yet
    behind: int = 0  # ticks by which the workers' clock is behind
    store_first: bool = False  # the API looks the key up before its gates may refuse the request
    highest: Micros = NOW
    wish: bool = False  # the caller may cancel it yet
    asked: bool = False  # it was cancelled
    over: bool = False  # and nothing may go out any more
    late: bool = False  # something did
    patience: int = TURN
    luck: int = 2

    def later(self, ticks: int) -> Life:
        """After so much time by the workers' clock."""
        job = self.job
        moved: dict[str, Any] = {name: _earlier(getattr(job, name), ticks) for name in _TIMES}
        begun_at = _earlier(self.begun_at, ticks) or 0
        return self._replace(job=job._replace(**moved), begun_at=begun_at, highest=self.highest - ticks * TICK)


def _earlier(at: Micros | None, ticks: int) -> Micros | None:
    return at and max(OLDEST, at - ticks * TICK)


class Keys(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "key's age before the wire": Promise.ONCE,
        "expiry before the wire": Promise.IN_TIME,
        "cancellation as it begins": Promise.IN_TIME,
        "cancellation on the wire": Promise.IN_TIME,
        "highest time": Promise.ONCE,
        "open keys fall into doubt": Promise.ONCE,
        "same key after an unknown outcome": Promise.ONCE,
        "only a replayed refusal is definite": Promise.ONCE,
        "a final refusal closes nothing": Promise.TRUE,
        "a key counts from its first use": Promise.ONCE,
        "begun may have gone out": Promise.ONCE,
        "no expiry in doubt": Promise.TRUE,
        "no cancellation in doubt": Promise.TRUE,
    }

    def first(self) -> Iterator[Life]:
        yield Life(Job(), shaky=True)
        yield Life(Job(), wish=True)
        yield Life(Job(expires_at=NOW + 2 * TICK))
        yield Life(Job(), store_first=True)

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        if self.done(state):
            return
        for step, after in self._steps(state):
            # That it is in doubt, not since when; and not how often it was tried: the policy's limits are not ours.
            job = after.job._replace(doubt_at=after.job.doubt_at and NOW, attempts=0, conflicts=0, deaths=0)
            if self.done(after):
                yield step, Life(Job(state=job.state), mails=after.mails, late=after.late)
                continue
            forgotten = job.generation != state.job.generation or (after.key is not None and after.key[0] >= HOUR)
            patience = TURN if after.phase == "waiting" else after.patience
            highest = max(after.highest, NOW)
            key = None if forgotten else after.key
            yield step, after._replace(job=job, key=key, patience=patience, highest=highest)

    def _steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        if state.patience and not self._is_urgent(state):
            after = state.later(1)._replace(patience=state.patience - (state.phase != "waiting"))
            if after.key is not None:
                after = after._replace(key=(after.key[0] + 1, after.key[1]))
            yield "15 minutes pass", after
        if state.luck and state.shaky:
            yield (
                "the clock is set back by an hour",
                state.later(-HOUR)._replace(behind=HOUR, shaky=False, luck=state.luck - 1),
            )
        if state.wish:
            yield from self._cancel(state)
        if job.state == State.QUEUED:
            yield from self._expire(state)
        match state.phase:
            case "waiting":
                yield from self._claim(state)
            case "loaded":
                yield from self._begin(state)
            case "begun":
                yield from self._call(state)
            case "answered":
                yield from self._record(state)
        if state.phase != "waiting" and state.luck:
            yield "the worker dies", self._bury(state._replace(luck=state.luck - 1))

    # --- the ledger and the worker ------------------------------------------------------------------------------------

    def _trusted(self, state: Life) -> Micros:
        if not self.has("highest time"):
            return KEY_MAX_AGE
        return trusted_age(KEY_MAX_AGE, now=NOW, highest=state.highest)

    def _cancel(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        if job.state == State.SENDING:
            after = job._replace(cancel_at=NOW)
            yield "it is cancelled while it is begun", state._replace(job=after, wish=False, asked=True)
        elif job.state == State.QUEUED:
            may_be_out = job.doubt_at is not None and self.has("no cancellation in doubt")
            after = job.moved(cancel_event(job.operation, may_have_gone_out=may_be_out))
            yield "it is cancelled while it waits", state._replace(job=after, wish=False, asked=True, over=True)

    def _is_urgent(self, state: Life) -> bool:
        """Whether the rescuer has something to do, which comes round every second."""
        return self.has("open keys fall into doubt") and self._is_open(state)

    def _is_open(self, state: Life) -> bool:
        waits = state.job.state == State.QUEUED and state.job.doubt_at is not None
        return waits and not self._trusted(state)

    def _expire(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        expired = job.expires_at is not None and job.expires_at <= NOW
        if expired or self._is_urgent(state):
            seen = job if self.has("no expiry in doubt") else job._replace(doubt_at=None)
            event = objection(seen, now=NOW, key_max_age=self._trusted(state))
            if event is not None:
                yield f"the rescuer ends it: {event.value}", state._replace(job=job.moved(event))

    def _claim(self, state: Life) -> Iterator[tuple[str, Life]]:
        event = objection(state.job, now=NOW, key_max_age=self._trusted(state))
        if event is not None:
            yield f"the claim ends it: {event.value}", state._replace(job=state.job.moved(event))
        else:
            yield "a turn loads it", state._replace(phase="loaded")

    def _begin(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        if job.state != State.QUEUED and self.has("cancellation as it begins"):
            yield "it is not begun any more", state._replace(phase="waiting")
            return
        begun = job._replace(state=State.QUEUED.value).begun(1, now=NOW)
        if not self.has("a key counts from its first use"):
            begun = begun._replace(key_at=NOW)
        yield "it is begun", state._replace(job=begun, phase="begun", over=state.asked)

    def _bury(self, state: Life) -> Life:
        job = state.job
        if job.state == State.SENDING:
            job = job.left_behind(now=NOW, key_max_age=self._trusted(state))
            if not self.has("begun may have gone out") and job.state == State.QUEUED:
                job = job._replace(doubt_at=state.job.doubt_at)
        return state._replace(job=job, phase="waiting", answer=None, begun_at=0)

    def _record(self, state: Life) -> Iterator[tuple[str, Life]]:
        assert state.answer is not None
        job = state.job
        unknown_before = job.doubt_at is not None and self.has("only a replayed refusal is definite")
        made = decided(state.answer, job, begun_at=state.begun_at, now=NOW, unknown_before=unknown_before)
        if state.answer == FOR_GOOD and made.sent is Sent.MAYBE and not self.has("a final refusal closes nothing"):
            made = made._replace(event=Event.GIVE_UP, sent=Sent.NO)
        same_key = self.has("same key after an unknown outcome") or made.event is not Event.RETURN
        outcome = outcome_of(
            1,
            made.event,
            generation=job.generation,
            begun_at=state.begun_at,
            sent=made.sent.value,
            counts=made.costs_attempt,
            conflict=made.rule == "key_in_progress",
            new_generation=made.new_generation or not same_key,
        )
        job = self._as_cancelled(job).recorded(outcome, now=NOW)
        after = state._replace(job=job, phase="waiting", answer=None, begun_at=0)
        yield f"that is recorded: {made.rule}, {job.state}", after

    def _as_cancelled(self, job: Job) -> Job:
        return job if self.has("cancellation on the wire") else job._replace(cancel_at=None)

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _call(self, state: Life) -> Iterator[tuple[str, Life]]:
        job = state.job
        trusted = self._trusted(state) if self.has("key's age before the wire") else FOR_EVER
        seen = job if self.has("expiry before the wire") else job._replace(expires_at=None)
        event = objection(seen, now=NOW, key_max_age=trusted)
        if event is not None:
            after = self._as_cancelled(job).recorded(outcome_of(1, event), now=NOW)
            yield f"before the wire: {event.value}", state._replace(job=after, phase="waiting")
            return
        past = job.expires_at is not None and job.expires_at <= NOW
        called = state._replace(phase="answered", begun_at=NOW, late=state.over or past)
        for answer, key, mails, luck in self._answers(state):
            heard = state.highest if ANSWERS[answer].status is None else NOW + state.behind * TICK  # by its `Date`
            heard_of = called._replace(answer=answer, key=key, mails=state.mails + mails, luck=luck)
            went = " and it goes out" if mails else ""
            yield f"it calls{went}: {answer}", heard_of._replace(highest=max(state.highest, heard))

    @staticmethod
    def _answers(state: Life) -> Iterator[tuple[str, tuple[int, str] | None, int, int]]:
        """The answer, what is kept under the key, the mails that went out, and the luck that is left."""
        luck, known = state.luck, state.key
        if known is None:
            yield "accepted", (0, "accepted, replayed"), 1, luck
        else:
            yield known[1], known, 0, luck
        if not luck:
            return
        for refusal in GATES:
            if not state.store_first:
                yield refusal, known, 0, luck - 1
            elif known is None:
                yield refusal, (0, f"{refusal}, replayed"), 0, luck - 1
        yield "no connection", known, 0, luck - 1
        if known is None:
            yield "no answer", (0, "accepted, replayed"), 1, luck - 1
            yield "no answer", (0, "in progress"), 1, luck - 1
            yield "504", (0, "504, replayed"), 1, luck - 1
            yield "504", (0, "504, replayed"), 0, luck - 1
            yield REFUSED, (0, f"{REFUSED}, replayed"), 0, luck - 1

    # --- what is promised ---------------------------------------------------------------------------------------------

    def broken(self, state: Life) -> Iterator[Promise]:
        ended, resting = state.job.state, state.phase == "waiting"
        if state.mails > 1:
            yield Promise.ONCE
        if state.late:
            yield Promise.IN_TIME
        if ended == State.SENT and not state.mails:
            yield Promise.TRUE
        if ended in FINAL and ended != State.SENT and state.mails and resting:
            yield Promise.TRUE

    def done(self, state: Life) -> bool:
        return state.phase == "waiting" and state.job.state in FINAL | {State.IN_DOUBT}
