"""Why a job is where it is, and until when: the dispatcher's own reasons, in its own order. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from sendq.clock import SECOND, Micros, moment
from sendq.ledger.dispatching.lineage import SHUT
from sendq.ledger.jobs import POISON
from sendq.ledger.reading.lookup import Surroundings
from sendq.ledger.sealed import NO_KEY
from sendq.rules.eta import predicted
from sendq.rules.pace import call_of, read
from sendq.rules.reconcile import Seen
from sendq.rules.states import MOVES, State
from sendq.views import Why

_ENDED = {
    State.SENT: "the API accepted it",
    State.DEAD: "it was given up; its trail says why",
    State.CANCELLED: "it was cancelled before it went out",
    State.EXPIRED: "its time was over before it went out",
}

_DOUBT = "it may have gone out, and nobody knows; it is not sent again before that is settled"

# What the last look met, and what is missing.
_SEEN: Mapping[str | None, str] = {
    None: "it has not been looked for yet",
    Seen.EARLY: "the mailbox did not show it, which proves nothing so soon",
    Seen.SILENT: "the mailbox does not show it, nor a later message of ours that would prove the listing up to date",
    Seen.CROWDED: "the mailbox holds more messages of that time than are read",
    Seen.DRAFT: "the mailbox shows it among the drafts",
    Seen.REFUSED: "the question to the mailbox was not answered",
    Seen.ABSENT: "the mailbox does not show it; once more, and that counts as not sent",
}

_POISON = "two workers died while it was begun, then the process in which it ran alone; `retry` sends it round again"


def explain(around: Surroundings, *, now: Micros) -> Why:
    """The first reason that holds, in the order in which the dispatcher and the worker look.

    A time that they have seen is over, though the clock of whoever asks may be behind it.
    """
    now = max(now, around.highest_at)
    job = around.job
    state = State(job.state)
    if state is State.DEAD and job.rule == POISON:
        return _why(job, state.value, _POISON, rule=job.rule)
    if state in _ENDED:
        return _why(job, state.value, _ENDED[state], rule=job.rule)
    if state is State.IN_DOUBT:
        return _in_doubt(around, now=now)
    if state is State.SENDING:
        return _why(job, "on_the_wire", "a worker is making the call now")
    if state not in MOVES:
        return _why(job, "foreign", "a newer version of sendq has it in hand; ask with that version")
    if around.shut_at is not None:
        return _why(job, "shut", SHUT)
    if around.lane is not None and around.lane.closed_at is not None:
        return _why(job, "reauth", _closed(around.lane), rule=around.lane.closed_rule, by="policy")
    held = _held(around, now=now)
    # What ends later is the truth: a job of tomorrow does not go when a hold of twenty minutes is over.
    if held is not None and held[1].held_until >= job.next_at:
        scope, row = held
        if row.held_rule == NO_KEY:
            return _why(job, "held", _unreadable(around), until=row.held_until, rule=NO_KEY, by=row.held_by)
        says = f"the {scope} is left alone until then"
        held_until = row.held_until
        return _why(
            job, "held", says, until=held_until, rule=row.held_rule, by=row.held_by,
            note=around.notes.get(scope), eta=_eta(around, now=now),
        )  # fmt: skip
    before = around.before
    if before is not None and (before.state == State.SENDING or before.next_at > now):
        until = before.next_at if before.state == State.QUEUED else None
        return _why(job, "behind", f"an earlier change of the same message goes first: job {before.id}", until=until)
    if job.next_at > now:
        if job.rule == NO_KEY:
            return _why(job, "held", _unreadable(around), until=job.next_at, rule=NO_KEY, by="policy")
        if job.attempts or job.doubt_at is not None:
            return _why(job, "retry", "it failed before and is tried again then", until=job.next_at, rule=job.rule)
        return _why(job, "not_due", "it is not due before then", until=job.next_at)
    return _unserved(around, now=now)


def _unreadable(around: Surroundings) -> str:
    name = "the key" if around.sealed_with is None else f"the encryption key {around.sealed_with!r}"
    return f"it is sealed, and no worker that looked has {name}; add it to SENDQ_ENCRYPTION_KEYS of every worker"


def _in_doubt(around: Surroundings, *, now: Micros) -> Why:
    """What is missing, and when it is looked for next: not in a lane that is held or closed."""
    job = around.job
    says = f"{_DOUBT}: {_SEEN[job.seen]}"
    held = _held(around, now=now)
    if around.shut_at is not None:
        return _why(job, "in_doubt", f"{_DOUBT}; {SHUT}", rule=job.rule)
    if around.lane is not None and around.lane.closed_at is not None:
        return _why(job, "in_doubt", f"{says}; while its lane is closed, nothing is asked", rule=job.rule)
    if held is not None:
        says = f"{says}; the {held[0]} is left alone until then, and nothing is asked"
        return _why(job, "in_doubt", says, until=held[1].held_until, rule=job.rule)
    return _why(job, "in_doubt", f"{says}; it is looked for then, or settled by: sendq resolve",
                until=job.look_at, rule=job.rule)  # fmt: skip


def _closed(lane: Row[Any]) -> str:
    if lane.gone:
        return "the grant exists no more; the job ends within seconds"
    if lane.suspected:
        return "the provider refused the grant, and the API is asked about it before its owner is bothered"
    return "the grant must be authorised anew by its owner"


def _held(around: Surroundings, *, now: Micros) -> tuple[str, Row[Any]] | None:
    """Of the holds in force, the one that ends last, with its scope."""
    scopes = (
        ("application", around.application_hold),
        ("provider", around.provider_hold),
        ("grant", around.lane),
    )
    holds = [
        (scope, row) for scope, row in scopes if row is not None and row.held_until is not None and row.held_until > now
    ]
    return max(holds, key=lambda hold: hold[1].held_until, default=None)


def _unserved(around: Surroundings, *, now: Micros) -> Why:
    """It could go: so it waits for its turn, or for somebody to give it one."""
    job, lane = around.job, around.lane
    if not around.workers:
        return _why(job, "no_worker", "no worker is running; start one with: sendq worker", ahead=around.ahead)
    if around.dispatcher_until <= now:
        return _why(job, "no_dispatcher", "no worker leads just now; one takes over within seconds", ahead=around.ahead)
    if lane is not None and lane.ready_at > now:
        return _why(job, "pace", _paced(lane, now), until=lane.ready_at, ahead=around.ahead, eta=_eta(around, now=now))
    if lane is None or (lane.turn is None and (lane.next_at is None or lane.next_at > now)):
        return _why(job, "new", "the dispatcher has not taken it in yet", ahead=around.ahead)
    if lane.turn is not None:
        says, eta = "its lane is being served, and others are ahead of it", _eta(around, now=now)
        return _why(job, "in_line", says, ahead=around.ahead, eta=eta)
    return _why(job, "due", "it is due and waits for a free slot", ahead=around.ahead, eta=_eta(around, now=now))


def _paced(lane: Row[Any], now: Micros) -> str:
    """What the lane's pace waits for, in a sentence."""
    if lane.stretch:
        return (
            f"its provider throttled the account: its calls stay {lane.stretch / SECOND:g} s apart until they succeed"
        )
    if lane.spacing_until > now:
        spacing = lane.spacing / SECOND
        return f"modifications of this grant stay {spacing:g} s apart for a while, since its quota was exhausted"
    limits = [f"{limit.units} per {limit.window / SECOND:g} s" for limit in read(lane.pace, lane.provider).limits]
    return f"its lane keeps to what {lane.provider} allows ({', '.join(limits)})"


def _eta(around: Surroundings, *, now: Micros) -> Micros:
    """When it will about go, if only pace, holds and those ahead are in its way."""
    job, lane = around.job, around.lane
    held = _held(around, now=now)
    not_before = max(job.next_at, held[1].held_until if held else 0)
    call = call_of(job.operation, job.form)
    width = 1 if lane is None else lane.width
    return predicted(lane, call, ahead=around.ahead, now=now, not_before=not_before, width=width)


def _why(
    job: Row[Any],
    reason: str,
    says: str,
    *,
    until: Micros | None = None,
    rule: str | None = None,
    by: str | None = None,
    note: str | None = None,
    ahead: int | None = None,
    eta: Micros | None = None,
) -> Why:
    return Why(
        job_id=str(job.id),
        state=State(job.state),
        reason=reason,
        says=says,
        until=moment(until) if until is not None else None,
        rule=rule,
        by=by,
        note=note,
        ahead=ahead,
        eta=moment(eta) if eta is not None else None,
    )
