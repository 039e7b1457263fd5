"""One send in doubt, the mailbox, and the looks into it: found, proven absent, or nobody can say.

The request went out at once, was still on its way for most of the key's hour (a repeat by a worker that nobody knew
of), or never went. A message shows in the listing at once or when the settling delay is over; the pair in its metadata
is ever indexed or not, and its header kept by the provider or not. Another job's message was accepted later or was not;
a page may come from a stale copy once; somebody else's message may have the same words; the clock may run an hour
ahead; and two leaders may look at once, of whom one is slow to write down what it saw. When looks count, and what they
say, is the product's own (`sendq.rules.reconcile`), and so is what the end of a doubt makes of the job
(`sendq.ledger.doubt`).

Or the request was answered, by a refusal that may have come after the message went out. Then one look settles it; it
rests on an index that has caught up, serves no stale copy after that, and keeps one of the marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

from sendq.clock import Micros
from sendq.ledger.doubt import BEGUN_FOR, Ending, _ended
from sendq.rules.reconcile import (
    KEY_LIFE,
    LONGEST_REQUEST,
    Choice,
    Delays,
    Look,
    Seen,
    after_absence,
    counts_from,
    first_look,
    judge,
    last_request,
    next_look,
)
from sendq.rules.states import FINAL, Event, State
from tests.model.explorer import Promise, World
from tests.model.parts import MINUTE, Job

SETTLE: Micros = 30 * MINUTE
DELAYS = Delays(settle=SETTLE, look_for=24 * 60 * MINUTE)
START: Micros = 1_000 * MINUTE
LAST: Micros = START + 150 * MINUTE
NEVER: Micros = 1 << 60


class Mailbox(NamedTuple):
    """What is true. ``out``, ``shown``: when it went out and when it is listed, `NEVER` if it is not."""

    out: Micros
    shown: Micros
    pair: bool  # the metadata of what timed out is indexed
    header: bool  # the provider keeps it
    other: bool  # another job's message was accepted later
    alike: bool = False  # and somebody else's has the same words
    ahead: bool = False  # our clock runs an hour ahead


class Pending(NamedTuple):
    """A look that is not written down yet."""

    job: Job
    look: tuple[bool, bool]  # found, and whether a later message is there
    asked_at: Micros


class Life(NamedTuple):
    """``now``: true time. ``mails``: that went out, or will."""

    box: Mailbox
    job: Job
    now: Micros
    look_at: Micros
    pending: Pending | None = None
    mails: int = 0
    stale: bool = False  # a stale copy was read; that happens once
    luck: int = 1

    @property
    def clock(self) -> Micros:
        return self.now + self.box.ahead * 60 * MINUTE


class Doubts(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "the key's hour is over": Promise.ONCE,
        "the index has had its time": Promise.ONCE,
        "by the slower of two clocks": Promise.ONCE,
        "either mark is enough": Promise.ONCE,
        "a later message shows the same mark": Promise.ONCE,
        "the index is alive": Promise.ONCE,
        "absence is proven twice": Promise.ONCE,
        "alike is not found": Promise.TRUE,
        "a look is of one generation": Promise.ONCE,
        "doubts are taken up": Promise.DURABLE,
    }

    def first(self) -> Iterator[Life]:
        job = Job(state=State.IN_DOUBT.value, key_at=START, doubt_at=START, looks=0, misses=0)
        late = job._replace(doubt_at=START + 44 * MINUTE)
        truths = (
            (job, START, SETTLE),
            (job, START + 40 * MINUTE, SETTLE // 2),
            (late, START + 44 * MINUTE + LONGEST_REQUEST, SETTLE),
            (job, NEVER, 0),
        )
        for known, out, lag in truths:
            for pair, header, other in product((True, False), repeat=3):
                for shown in {out, out + lag}:
                    yield from self._of(Mailbox(out, shown, pair, header, other), known)
        for out, (pair, header) in product((START, NEVER), ((True, True), (True, False), (False, True))):
            box = Mailbox(out, min(out + SETTLE, NEVER), pair, header, other=False)
            for life in self._of(box, job._replace(refused_at=START)):
                yield life._replace(stale=True)
        yield from self._of(Mailbox(NEVER, NEVER, pair=True, header=True, other=True, alike=True), job)
        yield from self._of(Mailbox(START, START + SETTLE, pair=True, header=True, other=True, ahead=True), job)

    def _of(self, box: Mailbox, job: Job) -> Iterator[Life]:
        taken_up = self.has("doubts are taken up")
        now = last_request(job)
        life = Life(box, job, now, NEVER, mails=int(box.out != NEVER))
        yield life._replace(look_at=first_look(job, DELAYS, now=life.clock)) if taken_up else life

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        if state.pending is not None:
            words, after = self._noted(state, state.pending)
            yield f"the other leader writes down its look: {words}", after._replace(pending=None)
        if state.job.state != State.IN_DOUBT:
            if state.job.state == State.QUEUED:
                yield from self._sent_again(state)
            return
        at = state.look_at - (state.clock - state.now)
        if at > LAST:
            return
        asked = state._replace(now=max(state.now, at))
        for words, look, stale in self._looks(asked):
            asked = asked._replace(stale=state.stale or stale)
            made = Pending(state.job, look, self._asked_at(asked))
            seen, after = self._noted(asked, made)
            minute = (asked.now - START) // MINUTE
            yield f"minute {minute}: a look, {words}: {seen}", after
            if state.luck and state.pending is None:
                again = asked._replace(pending=made, look_at=asked.clock + BEGUN_FOR, luck=0)
                yield f"minute {minute}: a look, {words}, which is not written down yet", again

    # --- looking ------------------------------------------------------------------------------------------------------

    def _asked_at(self, state: Life) -> Micros:
        return min(state.clock, state.now) if self.has("by the slower of two clocks") else state.clock

    def _looks(self, state: Life) -> Iterator[tuple[str, tuple[bool, bool], bool]]:
        """What a question brings: whether it is found, whether a later message is there; and whether that is stale."""
        box = state.box
        there = state.now >= box.shown
        marked = box.pair or box.header if self.has("either mark is enough") else box.pair
        found = (there and marked) or (box.alike and not self.has("alike is not found"))
        shows = box.header or not self.has("a later message shows the same mark")
        later = (box.other and shows) or not self.has("the index is alive")
        yield ("found" if found else "not found"), (found, later), False
        if found and not state.stale:
            yield "not found in a stale copy", (False, later), True

    def _noted(self, state: Life, made: Pending) -> tuple[str, Life]:
        """As `worker.leading.reconciler` notes it."""
        was, (found, later) = made.job, made.look
        look = Look(answered=True, whole=True, found="m" if found else None)
        judged = was
        if not self.has("the key's hour is over"):
            judged = was._replace(key_at=(was.key_at or 0) - KEY_LIFE)
        delays = DELAYS if self.has("the index has had its time") else Delays(settle=0, look_for=DELAYS.look_for)
        seen = judge(look, judged, delays, asked_at=made.asked_at, later=later)
        event = Event.ACCEPT if seen is Seen.FOUND else None
        if seen is Seen.ABSENT:
            misses = (was.misses or 0) + (not self.has("absence is proven twice"))
            event = after_absence(was._replace(misses=misses), Choice.WAIT, now=state.clock)
        job = state.job
        ours = job.state == State.IN_DOUBT and job.generation == was.generation
        if job.state == State.IN_DOUBT and not self.has("a look is of one generation"):
            ours = True
        if not ours:
            return "nobody wants to know any more", state
        if event is not None:
            unused = dict.fromkeys(("id", "message_id", "resume_at", "approve_by", "approved_at"))
            row = SimpleNamespace(**job._asdict(), **unused, next_at=0)
            now = state.clock
            ended = job.having(_ended(row, Ending(event, ""), at=now, now=now, even_late=False))  # type: ignore[arg-type]
            return f"{seen.value}, so {event.value}", state._replace(job=ended)
        counts = made.asked_at >= counts_from(judged, delays)
        noted = job._replace(looks=(was.looks or 0) + counts, misses=(was.misses or 0) + (seen is Seen.ABSENT))
        return seen.value, state._replace(job=noted, look_at=next_look(judged, seen, delays, now=state.clock))

    @staticmethod
    def _sent_again(state: Life) -> Iterator[tuple[str, Life]]:
        """With a new key: accepted, or in doubt once more."""
        sent = state._replace(mails=state.mails + 1)
        yield "it goes out with a new key", sent._replace(job=state.job.begun(1, now=state.clock).moved(Event.ACCEPT))
        if state.job.generation == 1:
            begun = state.job.begun(1, now=state.clock).moved(Event.DOUBT)
            doubted = begun._replace(doubt_at=state.clock, turn=None, begun_at=None, looks=0, misses=0)
            box = state.box._replace(out=state.now, shown=state.now + SETTLE)
            look_at = first_look(doubted, DELAYS, now=state.clock)
            again = sent._replace(job=doubted, box=box, look_at=look_at)
            yield "it goes out with a new key, and no answer comes", again

    # --- what is promised ---------------------------------------------------------------------------------------------

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.mails > 1:
            yield Promise.ONCE
        if state.job.state == State.SENT and not state.mails:
            yield Promise.TRUE

    def done(self, state: Life) -> bool:
        looked_for = state.job.state == State.IN_DOUBT and state.look_at < NEVER
        return state.job.state in FINAL or looked_for
