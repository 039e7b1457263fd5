"""Jobs: the list, and one job with the reason for its state, its attempts, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sendq.console.acts.jobs import FILTERS as ACT_FILTERS
from sendq.console.asked import Asked, View
from sendq.console.desk import Desk
from sendq.console.listing import (
    APPLICATION,
    BATCH,
    GRANT,
    PROVIDER,
    ROWS,
    RULE,
    SINCE,
    TAG,
    Filter,
    arguments,
    chosen_of,
    listed,
)
from sendq.rules.delivery import Delivery
from sendq.rules.rule_ids import NEEDS_APPROVAL
from sendq.rules.states import FINAL, State
from sendq.views import JobView, Why

STATE = Filter("state", "State", tuple(State))
OPERATION = Filter("operation", "Operation", ("send", "modify", "delete", "list", "read", "restore"))
PRIORITY = Filter("priority", "Priority", ("high", "normal", "low"))
DELIVERY = Filter("delivery", "Delivery", tuple(one for one in Delivery if one is not Delivery.UNKNOWN))
FILTERS = (STATE, DELIVERY, RULE, PROVIDER, APPLICATION, GRANT, OPERATION, PRIORITY, BATCH, TAG, SINCE)

EVENTS, DELIVERIES = 20, 10


def jobs(desk: Desk, asked: Asked) -> View:
    """The list, the most recently enqueued first."""
    chosen = chosen_of(asked, FILTERS)
    page = desk.operators.jobs(**arguments(asked, chosen), limit=ROWS, cursor=asked.get("after"))
    return View(
        "jobs.html",
        {
            "live": asked.get("after") is None,
            "list": listed(asked, FILTERS, chosen, page.items, page.next),
            "all_acts": tuple(_acts_on_all(chosen)),
        },
    )


def _acts_on_all(chosen: Mapping[str, str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Acts on all jobs that match, with their filters: if these can say what the list shows."""
    filters = {name: value for name, value in chosen.items() if name in ACT_FILTERS}
    state = chosen.get("state")
    if chosen.keys() - {"application", "state"} == {"tag"}:
        scope = {name: chosen[name] for name in ("tag", "application") if name in chosen}
        yield "hold", "Hold this tag…", scope
        yield "release", "Release this tag…", scope
    if not filters or filters.keys() != chosen.keys() - {"state"}:
        return
    if chosen.get("rule") == NEEDS_APPROVAL:
        yield "approve", "Approve all that match…", filters
        yield "reject", "Reject all that match…", filters
    if state == State.QUEUED:
        yield "cancel-all", "Cancel all that match…", filters
    elif state in (State.DEAD, State.EXPIRED):
        yield "retry", "Retry all that match…", filters | {"state": state}
    elif state == State.IN_DOUBT:
        yield "resolve", "Resolve all that match…", filters


def job(desk: Desk, asked: Asked) -> View:
    """One job."""
    why = desk.operators.why(asked.values["job"])
    seen = desk.operators.job(why.job_id)
    closed = why.reason == "reauth" and seen.grant_id is not None and seen.application is not None
    return View(
        "job.html",
        {
            "live": True,
            "job": seen,
            "why": why,
            "remedy": desk.remedy(why.rule),
            "reauth": desk.reauth_url(seen.application or "", seen.grant_id or "") if closed else None,
            "acts": tuple(acts_for(seen, replaces=desk.queue is not None)),
            "expires_first": expires_first(seen, why),
            "deliveries": desk.operators.deliveries(job_id=seen.id, limit=DELIVERIES).items,
        },
    )


def acts_for(seen: JobView, *, replaces: bool) -> Iterator[tuple[str, str]]:
    """Names and labels of the acts that a job in its state allows. ``replaces``: the console can replace messages."""
    if seen.state in (State.DEAD, State.EXPIRED):
        yield "retry", "Retry…"
    if seen.state is State.IN_DOUBT:
        yield "resolve", "Resolve…"
    if seen.waits_for_approval:
        yield "approve", "Approve…"
        yield "reject", "Reject…"
    if seen.state is State.QUEUED:
        yield "reschedule", "Reschedule…"
        yield "priority", "Priority…"
        yield ("release-job", "Release…") if seen.held else ("hold-job", "Hold…")
        if seen.operation == "send" and replaces:
            yield "replace", "Replace its message…"
    if seen.state not in FINAL:
        yield "cancel", "Cancel…"


def expires_first(seen: JobView, why: Why) -> bool:
    """Whether a job expires before what it waits for has ended."""
    ends = why.eta or why.until
    return seen.state is State.QUEUED and seen.expires_at is not None and ends is not None and seen.expires_at <= ends
