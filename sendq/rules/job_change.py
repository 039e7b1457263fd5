"""How an outcome, the loss of its worker or a cancel changes a job. Pure: each returns the columns to set."""

from __future__ import annotations

from typing import Any

from sendq.clock import Micros
from sendq.facts.jobs import LockedJob
from sendq.facts.outcomes import Outcome, Sent
from sendq.rules.preflight import CLOCK_TOLERANCE, DEATHS_TOLERATED, repeatable
from sendq.rules.states import FINAL, MOVES, Event, State


def cancel_event(operation: str, *, may_have_gone_out: bool) -> Event:
    """What a cancel means for a job that is not tried any more: "cancelled" would be wrong for a mail that went out."""
    return Event.DOUBT if may_have_gone_out and not repeatable(operation) else Event.CANCEL


def event_of_end(operation: str, doubt_at: Micros | None) -> Event:
    """How a waiting job is given up: a message that may have gone out is in doubt, not dead."""
    return Event.DOUBT if doubt_at is not None and not repeatable(operation) else Event.GIVE_UP


def after_outcome(job: LockedJob, outcome: Outcome, *, now: Micros) -> dict[str, Any]:
    """The columns of a job that ``outcome`` changes."""
    event = outcome.event
    if event is Event.RETURN and job.cancel_at is not None:
        known = outcome.sent == Sent.NO and (job.doubt_at is None or outcome.new_generation)
        event = cancel_event(job.operation, may_have_gone_out=not known)
    state = MOVES[State(job.state)][event]
    attempt = outcome.attempt
    changes: dict[str, Any] = {
        "state": state.value,
        "rule": outcome.rule,
        "attempts": job.attempts + outcome.counts,
        "deaths": job.deaths + outcome.died,
        "conflicts": job.conflicts + 1 if outcome.conflict else 0,
        "turn": None,
        "begun_at": None,
        "next_at": outcome.next_at,
    }
    if outcome.message_id is not None:
        changes["message_id"] = outcome.message_id
    if outcome.sent == Sent.MAYBE:
        changes["doubt_at"] = outcome.begun_at
    if outcome.new_generation:
        changes["generation"], changes["key_at"], changes["doubt_at"] = job.generation + 1, None, None
    elif attempt is None and job.key_at == job.begun_at:
        changes["key_at"] = None  # set when this call began, but no request was made: the key is still unused
    if state is State.IN_DOUBT:
        changes["refused_at"] = attempt.ended_at if outcome.refused and attempt is not None else None
    if outcome.event is Event.ACCEPT and attempt is not None:
        changes["generation"] = attempt.generation  # the one that went out, which may be an older one
    if state in FINAL:
        changes["finished_at"] = now
    return changes


def after_loss(job: LockedJob, *, rule: str, died: bool, now: Micros, key_max_age: Micros) -> dict[str, Any]:
    """The columns of a begun job to set when its worker is lost. One that stopped on purpose has not ``died``."""
    state = MOVES[State.SENDING][_event_of_loss(job, now=now, key_max_age=key_max_age)]
    return {
        "state": state.value,
        "rule": rule,
        # A worker's death alone does not make a job poison: it may only have run beside the job that is to blame.
        "deaths": max(job.deaths, min(DEATHS_TOLERATED, job.deaths + died)),
        "turn": None,
        "begun_at": None,
        "next_at": now,
        "doubt_at": job.begun_at,
        "finished_at": now if state in FINAL else None,
    }


def _event_of_loss(job: LockedJob, *, now: Micros, key_max_age: Micros) -> Event:
    """What happens to a begun job whose outcome will never be reported."""
    if job.cancel_at is not None:
        return cancel_event(job.operation, may_have_gone_out=True)
    young = job.key_at is not None and -CLOCK_TOLERANCE <= now - job.key_at < key_max_age
    return Event.DOUBT if not young and not repeatable(job.operation) else Event.RETURN


def sent_with_another_key(job: LockedJob, outcome: Outcome) -> bool:
    """Whether "sent" was answered for another key than the one that the job is known to be sent with: two mails, then.

    The same key answered twice is one mail.
    """
    if outcome.event is not Event.ACCEPT or outcome.attempt is None:
        return False
    return outcome.attempt.generation != job.generation
