"""The journal: one verb for each thing that can happen. Ids and rules only; never an address, a subject or a body.

Grep one id and read its biography: every line about a job has the job's id, its grant's id, and the rule that decided.
Set up (JSON or columns, level) by `settings.logs`; docs/logs.md lists the verbs, made from this module.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from uuid import UUID

import structlog

from sendq.clock import Micros, moment
from sendq.ledger.dispatching.record import Outcome
from sendq.rules.states import Event

_log = structlog.get_logger("sendq")
_level = logging.getLogger("sendq")

_foreign: set[tuple[str, str]] = set()
FOREIGN_MOST = 100  # names come from outside: this many are remembered, and said


# --- jobs -------------------------------------------------------------------------------------------------------------


def recorded(outcome: Outcome) -> None:
    """What became of a job that a turn had begun is committed."""
    if outcome.attempt is None:
        if outcome.event is not Event.RETURN:
            no_call(outcome)
    elif outcome.event is not Event.ACCEPT:
        attempt(outcome)
    elif _level.isEnabledFor(logging.DEBUG):  # they are the many, and structlog makes a line before it asks
        accepted(outcome)


def accepted(outcome: Outcome) -> None:
    """The API accepted it."""
    _log.debug("accepted", **_job(outcome), **_call(outcome))


def attempt(outcome: Outcome) -> None:
    """A call that the API did not accept. `then` is what becomes of the job: return (it goes again), doubt, give_up."""
    _log.info("attempt", **_job(outcome), **_call(outcome), then=outcome.event.value, sent=outcome.sent)


def no_call(outcome: Outcome) -> None:
    """A job ended directly before its call: its time was over, it was cancelled, or its key could tell no more."""
    _log.info("no_call", **_job(outcome), then=outcome.event.value)


def held(outcome: Outcome) -> None:
    """An answer concerned more than its job: the grant, its provider or its application is left alone until then."""
    assert outcome.hold is not None
    hold = outcome.hold
    if hold.until is None:
        closed(outcome)
        return
    until = moment(hold.until).isoformat(timespec="seconds")
    _log.warning("held", **_job(outcome), **_scope(outcome), scope=hold.scope, until=until)


def closed(outcome: Outcome) -> None:
    """The lane of a grant is closed until its owner signs in again."""
    _log.warning("closed_for_reauth", **_job(outcome), **_scope(outcome))


def late(outcomes: Collection[Outcome]) -> None:
    """A fact whose turn was over, recorded all the same. `then` as above."""
    for outcome in outcomes:
        _log.warning("late_fact", **_job(outcome), then=outcome.event.value)


def sent_twice(outcomes: Collection[Outcome]) -> None:
    """The ledger learns of two acceptances of one job: what must not happen."""
    for outcome in outcomes:
        _log.critical("sent_twice", **_job(outcome))


def text_refused(outcome: Outcome, error: BaseException) -> None:
    """The ledger refused an outcome; it is recorded with its text replaced."""
    _log.error("text_refused", **_job(outcome), error=type(error).__name__)


def expired(jobs: int) -> None:
    """The time of waiting jobs was over."""
    _log.info("jobs_expired", jobs=jobs)


def ended_with_grant(jobs: int) -> None:
    """Jobs of grants that exist no more were ended."""
    _log.warning("jobs_ended_with_grant", jobs=jobs)


def in_doubt(job: UUID, grant: str, rule: str | None) -> None:
    """A send may have gone out; it is looked for, and not sent again before that is settled."""
    _log.warning("in_doubt", job=str(job), grant=grant, rule=rule)


def settled(outcome: Outcome) -> None:
    """A doubt ended. `then` is what became of the job: accept (it went out), return (it goes again), give_up, …"""
    _log.info("settled", **_job(outcome), then=outcome.event.value, sent=outcome.sent)


def looked(job: UUID, grant: str, rule: str | None, seen: str) -> None:
    """The mailbox was asked for a send in doubt: found, absent (proven), or what keeps it from telling."""
    _log.info("looked", job=str(job), grant=grant, rule=rule, seen=seen)


# --- grants -----------------------------------------------------------------------------------------------------------


def reauth_required(application: str, grant_id: str, rule: str, url: str | None) -> None:
    """The owner of a grant must sign in again; where, if it is known."""
    _log.warning("reauth_required", application=application, grant=grant_id, rule=rule, url=url)


def checked(grant_id: str, verdict: str) -> None:
    """The API was asked about a grant: valid, invalid, gone, or unknown (no answer that says)."""
    _log.info("grant_checked", grant=grant_id, verdict=verdict)


def escalated(application: str, provider: str, rule: str, *, grants: int) -> None:
    """Many grants failed alike: their application or provider is held instead."""
    _log.error("escalated", application=application, provider=provider, rule=rule, grants=grants)


def identified(grant: str, provider: str) -> None:
    """The API has said whose a grant is: its lane keeps that provider's pace from now on."""
    _log.info("identified", grant=grant, provider=provider)


def paced(lanes: int) -> None:
    """Other settings than those of whoever led before: these lanes keep another pace now."""
    _log.info("paced", lanes=lanes)


# --- turns ------------------------------------------------------------------------------------------------------------


def leading(holder: UUID, fence: int) -> None:
    """This worker dispatches from now on."""
    _log.info("leading", worker=str(holder), fence=fence)


def shut(known_until: Micros) -> None:
    """The ledger knows less than it did: no turn is dealt out before `sendq recover --since` that time."""
    _log.critical("dispatch_shut", known_until=moment(known_until).isoformat(timespec="seconds"))


def opened() -> None:
    """The ledger is known to be whole: turns are dealt out again."""
    _log.warning("dispatch_open")


def dispatched(turns: int, bundles: int) -> None:
    """Turns went to the broker."""
    _log.debug("dispatched", turns=turns, bundles=bundles)


def publish_failed(turns: int, error: BaseException) -> None:
    """The broker is away: the turns go back, and are offered again when it is there."""
    _log.warning("publish_failed", turns=turns, error=type(error).__name__)


def unclaimed(turns: int) -> None:
    """No worker claimed turns in time (their message was lost): they are taken back."""
    _log.warning("turns_unclaimed", turns=turns)


def strays(turns: int) -> None:
    """Turns were ours in the ledger alone: answers to claims that were lost, or turns that broke off."""
    _log.warning("strays_returned", turns=turns)


def asleep(lanes: int) -> None:
    """Lanes had waiting jobs and believed that they had none: a lost write, or a bug."""
    _log.error("lanes_found_asleep", lanes=lanes)


def orphans(jobs: int) -> None:
    """Jobs were begun in turns that are over: outcomes that could not be recorded."""
    _log.error("orphans_returned", jobs=jobs)


def jobs_made(batch: UUID, jobs: int) -> None:
    """The batch's walk is over; messages that it found have their jobs."""
    _log.info("jobs_made", batch=str(batch), jobs=jobs)


def batch_finished(batch: UUID) -> None:
    """Its last job has ended."""
    _log.info("batch_finished", batch=str(batch))


def let_go(what: str, *, rows: int) -> None:
    """Their time was over (SENDQ_KEEP_…)."""
    _log.info("let_go", what=what, rows=rows)


# --- workers ----------------------------------------------------------------------------------------------------------


def worker_started(worker: UUID, *, capacity: int) -> None:
    """It is registered, and takes on so many calls at once."""
    _log.info("worker_started", worker=str(worker), capacity=capacity)


def metrics_at(host: str, port: int) -> None:
    """Where Prometheus finds its metrics."""
    _log.info("metrics_at", host=host, port=port)


def worker_stopping(worker: UUID, *, calls: int) -> None:
    """It was asked to stop, and finishes what it can."""
    _log.info("worker_stopping", worker=str(worker), calls=calls)


def worker_hurried(worker: UUID, *, calls: int) -> None:
    """It was asked to stop a second time: it waits for no call any longer."""
    _log.warning("worker_hurried", worker=str(worker), calls=calls)


def worker_stopped(worker: UUID) -> None:
    """It has handed over."""
    _log.info("worker_stopped", worker=str(worker))


def worker_reborn(old: UUID, new: UUID) -> None:
    """It was taken for dead; its facts still count, its turns do not."""
    _log.warning("worker_reborn", old=str(old), worker=str(new))


def worker_buried(worker: UUID, *, turns: int, begun: int) -> None:
    """Another worker is dead: its turns go back, of which so many jobs were begun."""
    _log.warning("worker_buried", worker=str(worker), turns=turns, begun=begun)


def unreadable(key_name: str, *, jobs: int) -> None:
    """Jobs were put off: this worker has no encryption key that opens them."""
    _log.error("encryption_key_missing", encryption_key=key_name, jobs=jobs)


def clock_behind(worker: UUID, *, behind_s: float) -> None:
    """The clock runs behind the highest time seen: no idempotency key is trusted until it has caught up."""
    _log.error("clock_behind", worker=str(worker), behind_s=round(behind_s))


def foreign(what: str, name: str) -> None:
    """Something of a newer version (a message, an operation, a schema), left to its workers. Said once by a process."""
    if (what, name) not in _foreign and len(_foreign) < FOREIGN_MOST:
        _foreign.add((what, name))
        _log.warning("foreign", what=what, name=name[:80])


def no_pulse(error: BaseException) -> None:
    """The probes of `sendq health` will not find this worker."""
    _log.warning("no_pulse", error=type(error).__name__)


def no_process(error: BaseException) -> None:
    """A job that must run alone waits: this machine can start no process now."""
    _log.error("no_process", error=str(error))


def ledger_away(error: BaseException, *, held_back: int) -> None:
    """The ledger cannot be reached; so many outcomes wait for it."""
    _log.error("ledger_away", error=type(error).__name__, outcomes_held_back=held_back)


def outcome_told(delivery: UUID, receiver: str) -> None:
    """A receiver has taken an outcome in."""
    _log.debug("outcome_told", delivery=str(delivery), receiver=receiver)


def outcome_failed(delivery: UUID, receiver: str, error: str) -> None:
    """A receiver did not take an outcome in; it is told again."""
    _log.warning("outcome_failed", delivery=str(delivery), receiver=receiver, error=error)


def receiver_held(receiver: str, error: str | None, *, until: int) -> None:
    """A receiver of outcomes is left alone for a while."""
    _log.warning("receiver_held", receiver=receiver, error=error, until=until)


def outcomes_given_up(deliveries: int, receiver: str) -> None:
    """Their 72 hours are over; `sendq deliveries retry` tells them all the same."""
    _log.error("outcomes_given_up", deliveries=deliveries, receiver=receiver)


def enqueue_refused(task: str, reasons: Sequence[str]) -> None:
    """Another application's `sendq.enqueue` cannot become a job; nothing was stored. Fields and reasons, no values."""
    _log.error("enqueue_refused", task=task, reasons=list(reasons))


def enqueue_put_back(task: str, error: BaseException) -> None:
    """The ledger is away: the message goes back to its queue."""
    _log.warning("enqueue_put_back", task=task, error=type(error).__name__)


def not_taken_on(error: BaseException, *, turns: int) -> None:
    """A bundle came out of the broker, and its turns could not be claimed: the ledger is away, or a bug."""
    _log.error("turns_not_taken_on", turns=turns, exc_info=error)


def loop_error(error: BaseException | None) -> None:
    """An exception that nobody waited for, on the event loop."""
    _log.error("nobody_waited", exc_info=error)


def bug(where: str, **ids: object) -> None:
    """An exception that should not have been; its type and place, not its words, which may quote somebody's mail."""
    _log.exception("bug", where=where, **ids)


# --- what lines have in common ----------------------------------------------------------------------------------------


def _job(outcome: Outcome) -> dict[str, object]:
    return {"job": str(outcome.job_id), "grant": outcome.grant_id, "rule": outcome.rule}


def _call(outcome: Outcome) -> dict[str, object]:
    call = outcome.attempt or {}
    return {"operation": outcome.operation, "status": call.get("status"), "request_id": call.get("request_id")}


def _scope(outcome: Outcome) -> dict[str, object]:
    return {"application": outcome.application, "provider": outcome.provider}
