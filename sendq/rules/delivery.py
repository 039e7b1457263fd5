"""What became of a sent mail: its delivery, a fact beside the state of its job. Pure.

"Sent" means that the API accepted the mail. What the mail servers did with it is reported later: minutes or days later,
twice, and in no order. So reports are merged, and the result is the same whatever their order and number:

    unknown < failed_later < rejected < confirmed < delivered < bounced < complained

The worst news of one recipient stands, and evidence that a mail went out stands above any report that it did not: a
mail that went out is never sent again because of a report that came too late. Of equal news, the earliest stands.

A job that an operator retries is sent again under a new generation of its key. Reports about the earlier send are
recognised (`concerns`) and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from sendq.clock import SECOND, Micros
from sendq.rules.states import Event, State


class Delivery(StrEnum):
    """What became of a mail, or of its copy for one recipient."""

    UNKNOWN = "unknown"  #            no report yet
    FAILED_LATER = "failed_later"  #  the API took it, and reported later that it never went out
    REJECTED = "rejected"  #          the API took it, and then refused to send it because of its content
    CONFIRMED = "confirmed"  #        it went out
    DELIVERED = "delivered"  #        the recipient's mail server took it
    BOUNCED = "bounced"  #            the recipient's mail server refused it
    COMPLAINED = "complained"  #      the recipient marked it as spam


_RANK = {delivery: rank for rank, delivery in enumerate(Delivery)}

# The mail left the API: it must not be sent again.
WENT_OUT = frozenset({Delivery.CONFIRMED, Delivery.DELIVERED, Delivery.BOUNCED, Delivery.COMPLAINED})


class Report(NamedTuple):
    """One report. ``at``: when it happened; ``source``: what reported it; ``detail``: its words, without addresses."""

    delivery: Delivery
    at: Micros
    source: str
    detail: str | None = None


class Send(NamedTuple):
    """One send of a job, as far as it is known: the generation of its key, the message's id, and the first request."""

    generation: int
    message_id: str | None
    key_at: Micros | None = None


def merge(reports: Iterable[Report]) -> Report:
    """The report that stands. Associative, commutative and idempotent. Raises ``ValueError`` if there is none."""
    return max(reports, key=_standing)


def _standing(report: Report) -> tuple[int, int, str, str]:
    return _RANK[report.delivery], -report.at, report.source, report.detail or ""


def concerns(report: Report, message_id: str | None, now: Send, before: Send | None) -> bool:
    """Whether a report is about the job's present send ``now``, not about an earlier one.

    ``message_id`` is the id that the report names, if it does. ``before`` is the send that the stored reports are
    about; None: there are none.
    """
    if before is None or before.generation == now.generation:
        return True
    if message_id is not None and message_id == before.message_id:
        return False
    if message_id is not None and message_id == now.message_id:
        return True
    # The times of Nylas are whole seconds.
    return now.key_at is not None and report.at >= now.key_at - SECOND


def event_for(state: State, delivery: Delivery, *, by_report: bool, in_doubt: bool) -> Event | None:
    """How a job in ``state`` moves on because of what became of its mail; None: it stays.

    ``by_report``: a report has made it dead; ``in_doubt``: the outcome of its last request is unknown.
    """
    if delivery in WENT_OUT:
        # What went out has gone out, whatever was assumed before. A job on the wire is settled by its worker.
        denied = state in (State.QUEUED, State.IN_DOUBT, State.CANCELLED, State.EXPIRED)
        return Event.ACCEPT if denied or (state is State.DEAD and (by_report or in_doubt)) else None
    if delivery is Delivery.FAILED_LATER:
        return {State.SENT: Event.FAIL_LATER, State.IN_DOUBT: Event.GIVE_UP}.get(state)
    return None


def is_pending(state: State, delivery: Delivery) -> bool:
    """Whether a report must be looked at again, because the outcome of its send is not recorded yet."""
    return delivery is Delivery.FAILED_LATER and state in (State.QUEUED, State.SENDING)
