"""The journal: one verb for each thing that can happen. Ids and rules only; never an address, a subject or a body.

Grep one id and read its biography. Set up (JSON or columns, level) by `settings.logs`.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import structlog

from sendq.ledger.record import Outcome
from sendq.states import Event

_log = structlog.get_logger("sendq")


def worker_started(worker: UUID, *, capacity: int) -> None:
    _log.info("worker_started", worker=str(worker), capacity=capacity)


def paced(lanes: int) -> None:
    """Other settings than those of whoever led before: these lanes keep another pace now."""
    _log.info("paced", lanes=lanes)


def identified(grant: str, provider: str) -> None:
    """The API has said whose a grant is: its lane keeps that provider's pace from now on."""
    _log.info("identified", grant=grant, provider=provider)


def worker_stopping(worker: UUID, *, calls: int) -> None:
    _log.info("worker_stopping", worker=str(worker), calls=calls)


def worker_stopped(worker: UUID) -> None:
    _log.info("worker_stopped", worker=str(worker))


def worker_reborn(old: UUID, new: UUID) -> None:
    """It was taken for dead; its facts still count, its turns do not."""
    _log.warning("worker_reborn", old=str(old), worker=str(new))


def worker_buried(worker: UUID, *, turns: int, begun: int) -> None:
    _log.warning("worker_buried", worker=str(worker), turns=turns, begun=begun)


def leading(holder: UUID, fence: int) -> None:
    _log.info("leading", worker=str(holder), fence=fence)


def dispatched(turns: int, bundles: int) -> None:
    _log.debug("dispatched", turns=turns, bundles=bundles)


def publish_failed(turns: int, error: BaseException) -> None:
    """The broker is away: the turns go back, and are offered again when it is there."""
    _log.warning("publish_failed", turns=turns, error=type(error).__name__)


def unclaimed(turns: int) -> None:
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


def expired(jobs: int) -> None:
    _log.info("jobs_expired", jobs=jobs)


def recorded(outcome: Outcome) -> None:
    attempt = outcome.attempt
    if attempt is None:
        if outcome.event is not Event.RETURN:
            _log.info("job_" + outcome.event.value, job=str(outcome.job_id), rule=outcome.rule)
        return
    say = _log.debug if outcome.event is Event.ACCEPT else _log.info
    say(
        "attempt",
        job=str(outcome.job_id),
        event_of_job=outcome.event.value,
        rule=outcome.rule,
        status=attempt["status"],
        sent=outcome.sent,
        request_id=attempt["request_id"],
    )


def held(outcome: Outcome) -> None:
    assert outcome.hold is not None
    hold = outcome.hold
    _log.warning(
        "closed_for_reauth" if hold.until is None else "held",
        scope=hold.scope,
        rule=hold.rule,
        lane=str(outcome.lane_id),
        until=hold.until,
    )


def reauth_required(application: str, grant_id: str, rule: str, url: str | None) -> None:
    """The owner of a grant must sign in again; where, if it is known."""
    _log.warning("reauth_required", application=application, grant=grant_id, rule=rule, url=url)


def checked(grant_id: str, verdict: str) -> None:
    _log.info("grant_checked", grant=grant_id, verdict=verdict)


def escalated(application: str, provider: str, rule: str, *, grants: int) -> None:
    """Many grants failed alike: their application or provider is held instead."""
    _log.error("escalated", application=application, provider=provider, rule=rule, grants=grants)


def ended_with_grant(jobs: int) -> None:
    """Jobs of grants that exist no more."""
    _log.warning("jobs_ended_with_grant", jobs=jobs)


def late(outcomes: Collection[Outcome]) -> None:
    """Facts whose turn was over: recorded all the same."""
    for outcome in outcomes:
        _log.warning("late_fact", job=str(outcome.job_id), event_of_job=outcome.event.value, rule=outcome.rule)


def sent_twice(outcomes: Collection[Outcome]) -> None:
    """The ledger learns of two acceptances of one job: what must not happen."""
    for outcome in outcomes:
        _log.critical("sent_twice", job=str(outcome.job_id))


def ledger_away(error: BaseException, *, held_back: int) -> None:
    _log.error("ledger_away", error=type(error).__name__, outcomes_held_back=held_back)


def text_refused(outcome: Outcome, error: BaseException) -> None:
    """The ledger refused an outcome; it is recorded with its text replaced."""
    _log.error("text_refused", job=str(outcome.job_id), error=type(error).__name__)


def bug(where: str, **ids: object) -> None:
    """An exception that should not have been; its type and place, not its words, which may quote somebody's mail."""
    _log.exception("bug", where=where, **ids)
