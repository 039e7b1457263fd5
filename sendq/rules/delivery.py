"""What became of a sent mail: its delivery, a fact beside the state of its job. Pure.

"Sent" means that the API accepted the mail. What the mail servers did with it is reported later: minutes or days later,
twice, and in no order. So reports are merged, and the result is the same whatever their order and number:

    unknown < failed_later < rejected < confirmed < delivered < bounced < complained

The worst news of one recipient stands, and evidence that a mail went out stands above any report that it did not: a
mail that went out is never sent again because of a report that came too late. Of equal news, the earliest stands.

A job has several sends if one is known not to have gone out: the next one has a new key (a new *generation*). A report
is about one of them, which it seldom names (`concerns`). Reports about an earlier one change nothing, except evidence
that it went out: then the job must not be sent again, whichever of its sends that was.
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

# The API took it, and it never left.
NEVER_WENT_OUT = frozenset({Delivery.FAILED_LATER, Delivery.REJECTED})

# The mail left the API: it must not be sent again.
WENT_OUT = frozenset({Delivery.CONFIRMED, Delivery.DELIVERED, Delivery.BOUNCED, Delivery.COMPLAINED})


class Report(NamedTuple):
    """One report. ``at``: when it happened; ``source``: what reported it; ``detail``: its words, without addresses."""

    delivery: Delivery
    at: Micros
    source: str
    detail: str | None = None


class MailJob(NamedTuple):
    """What reports need to know of a job: its state and its present send.

    ``key_at``: the first request of the present generation; ``failed_later``: dead because of a report; ``in_doubt``:
    the outcome of its last request is unknown.
    """

    state: State
    generation: int
    key_at: Micros | None
    message_id: str | None
    failed_later: bool = False
    in_doubt: bool = False

    @property
    def accepted_id(self) -> str | None:
        """The message's id of the present send; None: not accepted yet, and `message_id` may be an earlier send's."""
        accepted = self.state is State.SENT or (self.state is State.DEAD and self.failed_later)
        return self.message_id if accepted else None


class Known(NamedTuple):
    """What the reports so far say about a job: the one that stands, and the send that it is about.

    ``pending``: it must be looked at again, because the outcome of that send is not recorded yet.
    """

    report: Report
    generation: int
    message_id: str | None
    pending: bool = False

    @property
    def went_out(self) -> bool:
        """Whether it is evidence that a mail went out."""
        return self.report.delivery in WENT_OUT


def merge(reports: Iterable[Report]) -> Report:
    """The report that stands. Associative, commutative and idempotent. Raises ``ValueError`` if there is none."""
    return max(reports, key=_standing)


def _standing(report: Report) -> tuple[int, int, str, str]:
    return _RANK[report.delivery], -report.at, report.source, report.detail or ""


def take_in(job: MailJob, known: Known | None, report: Report, message_id: str | None) -> Known | None:
    """What is known after a report about ``message_id``; None: it is about an earlier send, and changes nothing."""
    if not concerns(job, known, report, message_id) and not _saves(job, known, report):
        return None
    if known is not None and known.generation != job.generation and not (known.pending and known.went_out):
        known = None
    standing = report if known is None else merge([report, known.report])
    named = job.accepted_id or (known.message_id if known is not None else None) or message_id
    return Known(standing, job.generation, named, is_pending(job.state, standing.delivery))


def concerns(job: MailJob, known: Known | None, report: Report, message_id: str | None) -> bool:
    """Whether a report is about the job's present send, not about an earlier one.

    The message's id decides if it is known of a send, else the time. An id may change on its way through a provider,
    so another one alone does not refute evidence that the mail went out; but it is not enough to give up a mail that
    was accepted under its own id.
    """
    bad = report.delivery in NEVER_WENT_OUT
    if bad and job.key_at is None and job.state in (State.QUEUED, State.SENDING):
        return False  # nothing was requested yet under this key
    if job.generation == 0:
        return True
    earlier = known is not None and known.generation != job.generation
    if message_id is not None:
        if message_id == job.accepted_id:
            return True
        if known is not None and message_id == known.message_id:
            return not earlier
        if bad and job.accepted_id is not None:
            return False
    # The times of Nylas are whole seconds.
    return job.key_at is not None and report.at >= job.key_at - SECOND


def _saves(job: MailJob, known: Known | None, report: Report) -> bool:
    """Whether a report shows that an earlier send went out, so that the job must not be sent again.

    Not if that was known before the job was sent again on purpose.
    """
    if known is not None and known.went_out and known.generation != job.generation and not known.pending:
        return False
    evidence = Known(report, job.generation, None)
    return evidence.went_out and (job.state is State.SENDING or event_for(job, evidence) is not None)


def event_for(job: MailJob, known: Known) -> Event | None:
    """How a job moves on because of what is known about its mail; None: it stays."""
    current = known.generation == job.generation
    if known.went_out:
        # What went out has gone out, whatever was assumed before. A job on the wire is settled by its worker.
        denied = job.state in (State.QUEUED, State.IN_DOUBT, State.CANCELLED, State.EXPIRED)
        denied = denied or (job.state is State.DEAD and (job.failed_later or job.in_doubt))
        return Event.ACCEPT if denied and (current or known.pending) else None
    if known.report.delivery in NEVER_WENT_OUT and current and not _of_another(job, known):
        return {State.SENT: Event.FAIL_LATER, State.IN_DOUBT: Event.GIVE_UP}.get(job.state)
    return None


def _of_another(job: MailJob, known: Known) -> bool:
    """Whether a report that came before the acceptance turns out to name another send's message."""
    ids = {job.accepted_id, known.message_id} - {None}
    return job.generation > 0 and len(ids) > 1


def is_pending(state: State, delivery: Delivery) -> bool:
    """Whether a report must be looked at again, because the outcome of its send is not recorded yet."""
    if state is State.SENDING:
        return delivery is not Delivery.UNKNOWN
    return state is State.QUEUED and delivery in NEVER_WENT_OUT
