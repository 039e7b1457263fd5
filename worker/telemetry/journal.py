"""The log events: one function for each. They hold ids, rules and numbers; never an address, a subject or a body.

Every line about a job has the job's id, its grant's id and the rule that decided, so a grep for an id shows its
history. `settings.logs` configures format and level; docs/logs.md lists the events and is generated from this module.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from uuid import UUID

import structlog

from sendq.clock import Micros, moment
from sendq.facts.outcomes import Outcome
from sendq.rules.rule_ids import BOUNCE_RATE, OVER_BUDGET
from sendq.rules.states import Event, State

_log = structlog.get_logger("sendq")
_level = logging.getLogger("sendq")

_newer: set[tuple[str, str]] = set()
NEWER_MOST = 100  # names come from outside: no more than this many are remembered and logged

# The state a job is in after an event of `Outcome`.
STATE_AFTER = {
    Event.ACCEPT: State.SENT,
    Event.RETURN: State.QUEUED,
    Event.DOUBT: State.IN_DOUBT,
    Event.GIVE_UP: State.DEAD,
    Event.CANCEL: State.CANCELLED,
    Event.EXPIRE: State.EXPIRED,
}


# --- jobs -------------------------------------------------------------------------------------------------------------


def recorded(outcome: Outcome) -> None:
    """The outcome of one job in a turn was committed: the event that says so, if any."""
    if outcome.attempt is None:
        if outcome.event is not Event.RETURN:
            ended_without_call(outcome)
    elif outcome.event is not Event.ACCEPT and outcome.attempt.route is not None:
        attempt_failed(outcome)
    elif _level.isEnabledFor(logging.DEBUG):  # most calls; structlog would build the line first
        accepted(outcome)


def accepted(outcome: Outcome) -> None:
    """The API accepted the job."""
    _log.debug("accepted", **_job(outcome), **_call(outcome))


def attempt_failed(outcome: Outcome) -> None:
    """A call that the API did not accept. `state` is the job's state now: queued (to be retried), in_doubt or dead."""
    _log.info(
        "attempt_failed", **_job(outcome), **_call(outcome), state=STATE_AFTER[outcome.event].value, sent=outcome.sent
    )


def ended_without_call(outcome: Outcome) -> None:
    """A job ended without a call: it had expired, was cancelled, is in doubt because its key was too old, or was given
    up because the provider refused it alone (`job_refused`)."""
    _log.info("ended_without_call", **_job(outcome), state=STATE_AFTER[outcome.event].value)


def held(outcome: Outcome) -> None:
    """An answer concerned more than its job: the grant, its provider or its application is held until that time."""
    assert outcome.hold is not None
    hold = outcome.hold
    if hold.until is None:
        closed_for_reauth(outcome)
        return
    until = moment(hold.until).isoformat(timespec="seconds")
    _log.warning("held", **_job(outcome), **_scope(outcome), scope=hold.scope, until=until)


def closed_for_reauth(outcome: Outcome) -> None:
    """The lane of a grant is closed until its owner signs in again."""
    _log.warning("closed_for_reauth", **_job(outcome), **_scope(outcome))


def late_outcomes(outcomes: Collection[Outcome]) -> None:
    """An outcome arrived after its turn had been taken back; it was recorded all the same."""
    for outcome in outcomes:
        _log.warning("late_outcome", **_job(outcome), state=STATE_AFTER[outcome.event].value)


def sent_twice(outcomes: Collection[Outcome]) -> None:
    """The API accepted one job twice, which must never happen. Please report it."""
    for outcome in outcomes:
        _log.critical("sent_twice", **_job(outcome))


def text_rejected(outcome: Outcome, error: BaseException) -> None:
    """The database rejected the text of an answer; the outcome was recorded with that text replaced."""
    _log.error("text_rejected", **_job(outcome), error=type(error).__name__)


def jobs_expired(jobs: int) -> None:
    """Waiting jobs passed their `expires_at`."""
    _log.info("jobs_expired", jobs=jobs)


def jobs_not_approved(jobs: int) -> None:
    """Jobs that need approval were not approved in time; they are dead letters, and were not sent."""
    _log.warning("jobs_not_approved", jobs=jobs)


def mail_failed_later(jobs: int) -> None:
    """The API reported that mails it had accepted never went out; their jobs are dead letters."""
    _log.warning("mail_failed_later", jobs=jobs)


def send_events_read(application: str, *, applied: int, unknown: int) -> None:
    """Nylas was asked what became of an application's mail. `unknown`: events in a form that sendq does not know."""
    _log.info("send_events_read", application=application, applied=applied, unknown=unknown)


def no_send_events(application: str) -> None:
    """The application does not have Nylas's send events; it is not asked again for a day."""
    _log.info("no_send_events", application=application)


def held_for_bounces(application: str, grant: str, *, bounced: int, accepted: int, until: Micros) -> None:
    """Too much of a grant's mail bounced within an hour (`SENDQ_BOUNCE_HOLD_S`): it is held until that time."""
    _log.error(
        "held_for_bounces", application=application, grant=grant, rule=BOUNCE_RATE, bounced=bounced, accepted=accepted,
        until=moment(until).isoformat(timespec="seconds"),
    )  # fmt: skip


def over_budget(application: str, tag: str | None, *, budget: str, until: Micros) -> None:
    """A budget (`SENDQ_BUDGETS`) is used up, and further sends wait until that time; once in each window."""
    _log.error(
        "over_budget", application=application, tag=tag, rule=OVER_BUDGET, budget=budget,
        until=moment(until).isoformat(timespec="seconds"),
    )  # fmt: skip


def grant_deleted_jobs_ended(jobs: int) -> None:
    """Waiting jobs of deleted grants were ended."""
    _log.warning("grant_deleted_jobs_ended", jobs=jobs)


def in_doubt(job: UUID, grant: str, rule: str | None) -> None:
    """A send may have gone out. The mailbox is searched for it, and it is not sent again until that is resolved."""
    _log.warning("in_doubt", job=str(job), grant=grant, rule=rule)


def doubt_resolved(outcome: Outcome) -> None:
    """A send in doubt was resolved. `state` is the job's state now: sent, queued (it will be sent again), dead, …"""
    _log.info("doubt_resolved", **_job(outcome), state=STATE_AFTER[outcome.event].value, sent=outcome.sent)


def mailbox_searched(job: UUID, grant: str, rule: str | None, result: str) -> None:
    """The mailbox was searched for a send in doubt. `result`: found, absent (not sent), or why it is unknown."""
    _log.info("mailbox_searched", job=str(job), grant=grant, rule=rule, result=result)


def follower_ended(job: UUID, after: UUID, rule: str) -> None:
    """A job that follows job `after` ended unsent: job `after` was not sent (after_failed), or its mail was answered or
    bounced (unless_replied, unless_bounced)."""
    _log.info("follower_ended", job=str(job), after=str(after), rule=rule)


def thread_not_read(job: UUID, grant: str, error: str) -> None:
    """A follow-up is sent only if its thread has no answer, and the thread could not be read; it is read again
    later."""
    _log.warning("thread_not_read", job=str(job), grant=grant, error=error)


# --- grants -----------------------------------------------------------------------------------------------------------


def reauth_required(application: str, grant_id: str, rule: str, url: str | None) -> None:
    """The owner of a grant must sign in again; `url` is where, if known."""
    _log.warning("reauth_required", application=application, grant=grant_id, rule=rule, url=url)


def grant_checked(grant_id: str, verdict: str) -> None:
    """The API was asked whether a grant is valid. `verdict`: valid, invalid, gone (deleted), refused (the key or
    the way to the API is at fault) or unknown."""
    _log.info("grant_checked", grant=grant_id, verdict=verdict)


def key_checked(application: str, ruling: str) -> None:
    """A grant was not found, and the API was asked about others of the application. `ruling` says what this means for
    the API key: right (the grant is gone), wrong (no grant is found: the application is held), alone (there is no other
    grant) or unknown (they could not be asked about)."""
    _log.warning("key_checked", application=application, ruling=ruling)


def escalated(application: str, provider: str, rule: str, *, grants: int) -> None:
    """Many grants failed in the same way, so their application or provider is held instead."""
    _log.error("escalated", application=application, provider=provider, rule=rule, grants=grants)


def provider_found(grant: str, provider: str) -> None:
    """The API named the provider of a grant; its lane is paced by that provider's limits from now on."""
    _log.info("provider_found", grant=grant, provider=provider)


def paces_applied(lanes: int) -> None:
    """The paces of `lanes` lanes changed, because this leader's settings differ from the previous leader's."""
    _log.info("paces_applied", lanes=lanes)


# --- turns ------------------------------------------------------------------------------------------------------------


def became_leader(holder: UUID, fence: int) -> None:
    """This worker is the leader from now on: it dispatches."""
    _log.info("became_leader", worker=str(holder), fence=fence)


def dispatch_stopped(because: str, lost_since: Micros) -> None:
    """The ledger was restored to an older state, or may have been; `sendq status` says what to do.

    Nothing is dispatched meanwhile. A loss younger than 45 minutes is repaired without an operator.
    """
    _log.critical("dispatch_stopped", because=because, lost_since=moment(lost_since).isoformat(timespec="seconds"))


def dispatch_resumed(repeated: int) -> None:
    """The leader has repaired the ledger and dispatches again; so many sends are repeated under their own keys."""
    _log.warning("dispatch_resumed", repeated=repeated)


def dispatched(turns: int, bundles: int, *, here: int) -> None:
    """Bundles of turns were handed over: some to this process itself (`here`), the others to the broker."""
    _log.debug("dispatched", turns=turns, bundles=bundles, here=here)


def publish_failed(turns: int, error: BaseException) -> None:
    """The broker cannot be reached. The turns are published again once it can."""
    _log.warning("publish_failed", turns=turns, error=type(error).__name__)


def turns_unclaimed(turns: int) -> None:
    """No worker claimed these turns in time (their message was lost); they are dispatched again."""
    _log.warning("turns_unclaimed", turns=turns)


def lost_turns_returned(turns: int) -> None:
    """Turns that only the ledger knew of were returned: the answer to a claim was lost, or a turn was cut short."""
    _log.warning("lost_turns_returned", turns=turns)


def idle_lanes_woken(lanes: int) -> None:
    """Lanes with waiting jobs were marked idle: a lost write, or a bug."""
    _log.error("idle_lanes_woken", lanes=lanes)


def orphaned_jobs_returned(jobs: int) -> None:
    """Jobs were still marked as sending although their turns were over: their outcomes could not be recorded."""
    _log.error("orphaned_jobs_returned", jobs=jobs)


def batch_expanded(batch: UUID, jobs: int) -> None:
    """A batch has found all its messages, and each has a job."""
    _log.info("batch_expanded", batch=str(batch), jobs=jobs)


def batch_finished(batch: UUID) -> None:
    """The last job of a batch has ended."""
    _log.info("batch_finished", batch=str(batch))


def tag_released(application: str, tag: str, jobs: int) -> None:
    """Jobs that waited because their tag was held may start again."""
    _log.info("tag_released", application=application, tag=tag, jobs=jobs)


def pruned(what: str, *, rows: int) -> None:
    """Rows past their retention period were deleted (SENDQ_KEEP_…)."""
    _log.info("pruned", what=what, rows=rows)


# --- workers ----------------------------------------------------------------------------------------------------------


def worker_started(worker: UUID, *, capacity: int) -> None:
    """The worker is registered. `capacity`: how many calls it makes at once."""
    _log.info("worker_started", worker=str(worker), capacity=capacity)


def metrics_started(host: str, port: int) -> None:
    """Prometheus metrics are served on this address."""
    _log.info("metrics_started", host=host, port=port)


def worker_stopping(worker: UUID, *, calls: int) -> None:
    """The worker was asked to stop; it finishes the calls in flight."""
    _log.info("worker_stopping", worker=str(worker), calls=calls)


def worker_stopping_now(worker: UUID, *, calls: int) -> None:
    """The worker was asked to stop a second time; it no longer waits for calls in flight."""
    _log.warning("worker_stopping_now", worker=str(worker), calls=calls)


def worker_stopped(worker: UUID) -> None:
    """The worker has stopped and returned its unfinished work."""
    _log.info("worker_stopped", worker=str(worker))


def worker_registered_again(old: UUID, new: UUID) -> None:
    """The worker had been declared dead. It continues under a new id; its outcomes still count, its turns do not."""
    _log.warning("worker_registered_again", old=str(old), worker=str(new))


def worker_declared_dead(worker: UUID, *, turns: int, begun: int) -> None:
    """Another worker is dead. Its `turns` were returned; `begun` of their jobs may have been in flight."""
    _log.warning("worker_declared_dead", worker=str(worker), turns=turns, begun=begun)


def encryption_key_missing(key_name: str, *, jobs: int) -> None:
    """Jobs were postponed: this worker does not have the encryption key that decrypts them."""
    _log.error("encryption_key_missing", encryption_key=key_name, jobs=jobs)


def not_encrypted(*, jobs: int) -> None:
    """Jobs were postponed: they are stored unencrypted, though this worker has encryption keys."""
    _log.error("not_encrypted", jobs=jobs)


def integrity_check_failed(*, jobs: Sequence[UUID], lanes: Sequence[UUID]) -> None:
    """Something other than sendq changed these jobs, which ended, or lanes, which are held; or they are damaged."""
    _log.error("integrity_check_failed", jobs=[str(one) for one in jobs], lanes=[str(one) for one in lanes])


def clock_behind(worker: UUID, *, behind_s: float) -> None:
    """The clock is behind the latest time ever recorded. No idempotency key is trusted until it has caught up."""
    _log.error("clock_behind", worker=str(worker), behind_s=round(behind_s))


def clock_set_back(*, behind_s: float) -> None:
    """The ledger's clock was set back; times that lie further ahead than any pace or hold allows are brought back."""
    _log.error("clock_set_back", behind_s=round(behind_s))


def times_brought_back(*, lanes: int, jobs: int) -> None:
    """Lanes and waiting jobs whose times a clock that was ahead had written count from now."""
    _log.warning("times_brought_back", lanes=lanes, jobs=jobs)


def newer_version(what: str, name: str) -> None:
    """A message, operation or schema from a newer version was left for its workers. Logged once per process."""
    if (what, name) not in _newer and len(_newer) < NEWER_MOST:
        _newer.add((what, name))
        _log.warning("newer_version", what=what, name=name[:80])


def message_dropped(key: str, reason: str, *, size: int) -> None:
    """Something in a key of the broker is no message that a worker can read, and was dropped. `size`: its bytes."""
    _log.warning("message_dropped", key=key, reason=reason, size=size)


def heartbeat_file_failed(error: BaseException) -> None:
    """The heartbeat file cannot be written, so `sendq health` will not find this worker."""
    _log.warning("heartbeat_file_failed", error=type(error).__name__)


def process_not_started(error: BaseException) -> None:
    """A job that needs its own process has to wait: the machine cannot start one now."""
    _log.error("process_not_started", error=str(error))


def ledger_unavailable(error: BaseException, *, waiting: int) -> None:
    """The ledger cannot be reached. `outcomes_waiting`: recorded as soon as it can be."""
    _log.error("ledger_unavailable", error=type(error).__name__, outcomes_waiting=waiting)


def notifications_kept_back() -> None:
    """A pooler between the worker and PostgreSQL keeps notifications back (PgBouncer in transaction mode): the leader
    looks for new jobs 20 times a second instead."""
    _log.warning("notifications_kept_back")


def ledger_conflict(error: BaseException, *, waiting: int) -> None:
    """The ledger aborted a transaction that got in another one's way; it is run again. `outcomes_waiting`: in it."""
    _log.info("ledger_conflict", error=type(error).__name__, outcomes_waiting=waiting)


def outcome_delivered(delivery: UUID, receiver: str) -> None:
    """A receiver accepted an outcome."""
    _log.debug("outcome_delivered", delivery=str(delivery), receiver=receiver)


def delivery_failed(delivery: UUID, receiver: str, error: str) -> None:
    """A receiver did not accept an outcome; it is delivered again."""
    _log.warning("delivery_failed", delivery=str(delivery), receiver=receiver, error=error)


def receiver_held(receiver: str, error: str | None, *, until: int) -> None:
    """A receiver keeps failing; nothing is delivered to it until that time."""
    _log.warning("receiver_held", receiver=receiver, error=error, until=until)


def deliveries_given_up(deliveries: int, receiver: str) -> None:
    """Outcomes could not be delivered for 72 hours; `sendq deliveries retry` tries again."""
    _log.error("deliveries_given_up", deliveries=deliveries, receiver=receiver)


def enqueue_rejected(task: str, reasons: Sequence[str]) -> None:
    """Another application's `sendq.enqueue` is invalid; nothing was stored. `reasons` name fields, never values."""
    _log.error("enqueue_rejected", task=task, reasons=list(reasons))


def enqueue_requeued(task: str, error: BaseException) -> None:
    """The ledger cannot be reached; the message was put back into its queue."""
    _log.warning("enqueue_requeued", task=task, error=type(error).__name__)


def claim_failed(error: BaseException, *, turns: int) -> None:
    """A bundle arrived, and its turns could not be claimed: the ledger cannot be reached, or a bug."""
    _log.error("claim_failed", turns=turns, exc_info=error)


def unhandled_exception(error: BaseException | None) -> None:
    """An exception on the event loop that no code handled."""
    _log.error("unhandled_exception", exc_info=error)


def bug(where: str, **ids: object) -> None:
    """An unexpected exception: its type and traceback, not its text, which may quote a message."""
    _log.exception("bug", where=where, **ids)


# --- fields shared by several events ----------------------------------------------------------------------------------


def _job(outcome: Outcome) -> dict[str, object]:
    return {"job": str(outcome.job_id), "grant": outcome.grant_id, "rule": outcome.rule}


def _call(outcome: Outcome) -> dict[str, object]:
    call = outcome.attempt
    status, request_id = (None, None) if call is None else (call.status, call.request_id)
    return {"operation": outcome.operation, "status": status, "request_id": request_id}


def _scope(outcome: Outcome) -> dict[str, object]:
    return {"application": outcome.application, "provider": outcome.provider}
