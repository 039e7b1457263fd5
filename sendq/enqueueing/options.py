"""Options of a job: what a caller may pass, what is wrong with it, and what the ledger keeps of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from operator import attrgetter, is_
from typing import TypedDict
from uuid import UUID

from sendq.clock import Micros, micros, moment
from sendq.enqueueing.arguments import (
    check_flag,
    check_grant,
    check_key,
    check_priority,
    check_times,
    priority_number,
)
from sendq.enqueueing.expiry import Expiry, Never
from sendq.enqueueing.spreading import check_window, opening_problems
from sendq.enqueueing.targets import parse_target
from sendq.enqueueing.tracing import check_traceparent
from sendq.errors import Problem
from sendq.messages.characters import header_fault
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.rules.expiry import EXPIRY
from sendq.rules.pace import PROVIDERS
from sendq.rules.reconcile import Choice
from sendq.rules.suppression import Suppressed
from sendq.rules.tags import check_tags
from sendq.rules.windows import Window, first_opening
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import Job, Priority

IN_DOUBT = tuple(choice.value for choice in Choice)
SUPPRESSED = tuple(choice.value for choice in Suppressed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a job, of any operation.

    Attributes:
        key: makes a repeated call harmless: it returns the first job instead of enqueuing a second one. The job can
            also be looked up by it. Webhooks of the outcome get the key, so do not make it from an address.
        due_at: start no earlier than this (aware). None: at once.
        expires_at: start no later than this (aware), or `NEVER`. None: 72 hours after ``due_at`` for sends, never for
            other operations.
        priority: high, normal or low; decides the order within the grant's own queue.
        application: the name of a Nylas application in the workers' settings.
        provider: the grant's email provider, if known.
        on_outcome: where to send the outcome when the job ends, or when it is unknown whether it was carried out: a
            Celery task or a webhook, see `sendq.enqueueing.targets`. A batch reports once, when its last job has ended.
        in_doubt: for sends only: what to do if it remains unknown whether the message was sent. ``wait``: until an
            operator decides. ``resend``: at the risk of a second copy. ``dead``: give up, even if the message turns
            out not to have been sent. None: what the workers' settings say.
        tags: what the job is about, like ``{"campaign": "may"}``: to find, count, hold, release, retry and cancel jobs
            by. At most 8, see `sendq.rules.tags`. Never a recipient's data: tags are not encrypted, and are shown.
        needs_approval: it does not begin before a person or program approves it (`SendQueue.approve`,
            ``sendq approve``). One that is not approved by its expiry (or, if it never expires, within 72 hours
            once it is due and its window is open) is given up as a dead letter, rule ``not_approved``. Not part of what
            a ``key`` identifies.
        suppressed: for sends only: what to do about suppressed recipients. ``refuse``: raise `SuppressedRecipients`.
            ``drop``: send to the others, and name the positions in `Job.dropped`. A message whose ``to`` would be empty
            is refused; a batch is made without it, and counts it in `Batch.left_out`.
        window: the hours in which it may begin, see `sendq.Window`; ``due_at`` outside of them means the next opening,
            a retry waits for it too, and the 72 hours of a send count from the first. None: the default of the grant,
            if it has one (`Operators.set_window`). Not part of the content that ``key`` names.
        traceparent: the trace (W3C Trace Context) that the attempts of the job belong to. None: that of the active span
            of OpenTelemetry, if there is one.
        after: for sends only: wait until this job was sent (the `Job` that `send` returned, or its id; in `send_many`
            without a batch also the position of an earlier message). If it is given up, expires or is cancelled, so
            does this one end, under the rule ``after_failed``. ``expires_at`` None: 72 hours after the wait,
            or after its window then opens.
        delay: wait so much longer after that job was sent. ``due_at`` counts too: the later time does.
        unless: do not send it if the mail of that job was answered (``replied``) or bounced (``bounced``): one of them,
            or both in a list. It is then cancelled, under the rule ``unless_replied`` or ``unless_bounced``.
        reply_to: like ``after``, and the message replies to that job's, in its thread. The same grant sends both.
    """

    key: str | None = None
    due_at: datetime | None = None
    expires_at: Expiry = None
    priority: Priority | str | int = Priority.NORMAL
    application: str = DEFAULT_APPLICATION
    provider: str | None = None
    on_outcome: str | None = None
    in_doubt: str | None = None
    tags: Mapping[str, str] | None = None
    needs_approval: bool = False
    suppressed: Suppressed | str = Suppressed.REFUSE
    window: Window | None = None
    traceparent: str | None = None
    after: Job | UUID | str | int | None = None
    delay: timedelta | None = None
    unless: str | Collection[str] | None = None
    reply_to: Job | UUID | str | int | None = None


_all_but_key = attrgetter(*(one.name for one in fields(Options) if one.name != "key"))


def with_key(options: Options, key: str) -> Options:
    """These options with another key; `dataclasses.replace` takes several times as long."""
    made = object.__new__(Options)
    for name in Options.__slots__:
        object.__setattr__(made, name, getattr(options, name))
    object.__setattr__(made, "key", key)
    return made


class OptionsGiven(TypedDict, total=False):
    """`Options` as keyword arguments."""

    key: str | None
    due_at: datetime | None
    expires_at: Expiry
    priority: Priority | str | int
    application: str
    provider: str | None
    on_outcome: str | None
    tags: Mapping[str, str] | None
    needs_approval: bool
    window: Window | None
    traceparent: str | None


class SendOptionsGiven(OptionsGiven, total=False):
    """`Options` of sends as keyword arguments."""

    in_doubt: str | None
    suppressed: Suppressed | str
    after: Job | UUID | str | int | None
    delay: timedelta | None
    unless: str | Collection[str] | None
    reply_to: Job | UUID | str | int | None


@dataclass(frozen=True, slots=True)
class Send:
    """One message of a call of ``send_many``."""

    grant_id: str
    message: Message | MimeMessage
    options: Options = field(default_factory=Options)


class OptionChecks:
    """The checks of the options of one call, whose sends often have the same grant, and all options but the key."""

    def __init__(self, now: Micros) -> None:
        self._now = now
        self._sound: tuple[object, ...] = ()

    def problems(self, grant_id: object, options: Options) -> list[Problem]:
        """As `option_problems`."""
        given = (grant_id, *_all_but_key(options))
        # By identity: True is no valid priority, although it equals 1.
        if self._sound and all(map(is_, given, self._sound)):
            return check_key(options.key)
        if not (found := option_problems(grant_id, options, now=self._now)):
            self._sound = given
        return found


def option_problems(grant_id: object, options: Options, *, now: Micros) -> list[Problem]:
    """What is wrong with a call, apart from its content."""
    expires_at = None if isinstance(options.expires_at, Never) else options.expires_at
    problems = [*check_grant(grant_id), *check_key(options.key), *check_priority(options.priority)]
    times: list[Problem] = []
    if options.due_at is not None or expires_at is not None:
        times = check_times(options.due_at, expires_at, moment(now))
        problems += times
    if options.window is not None:
        problems += (found := check_window(options.window))
        if not times and not found:
            problems += opening_problems(options.window, first_at(options, now=now), expires_at)
    if options.provider is not None and options.provider not in PROVIDERS:
        problems.append(Problem("provider", "is not a known provider", f"pass one of {', '.join(PROVIDERS)}, or None"))
    if options.in_doubt is not None and options.in_doubt not in IN_DOUBT:
        problems.append(Problem("in_doubt", f"is not one of {', '.join(IN_DOUBT)}", "pass one of them, or None"))
    if options.suppressed not in SUPPRESSED:
        problems.append(Problem("suppressed", f"is not one of {', '.join(SUPPRESSED)}", "pass one of them"))
    name = options.application
    if not isinstance(name, str) or not 0 < len(name) <= 255 or header_fault(name) is not None:
        reason = "is not a string of 1 to 255 valid characters"
        problems.append(Problem("application", reason, "pass the name it has in the workers' settings"))
    if options.on_outcome is not None and isinstance(target := parse_target(options.on_outcome), Problem):
        problems.append(target)
    problems += [*check_flag("needs_approval", options.needs_approval), *check_traceparent(options.traceparent)]
    if options.tags is not None:
        problems += check_tags(options.tags)
    return problems


def priority_of(options: Options) -> int:
    """The priority as the ledger keeps it."""
    return priority_number(options.priority)


def first_at(options: Options, *, now: Micros) -> Micros:
    """When the first job of a call is due."""
    return now if options.due_at is None else max(now, micros(options.due_at))


def opening(options: Options, due_at: Micros) -> Micros:
    """When a job that is due then may start: when its window is open."""
    opens_at = None if options.window is None else first_opening(options.window, due_at)
    return due_at if opens_at is None else opens_at


def given_expiry(expires_at: Expiry) -> datetime | None:
    """The expiry, if the caller passed a time: only then does it count in a digest."""
    return expires_at if isinstance(expires_at, datetime) else None


def expiry_of(operation: str, options: Options, opens_at: Micros) -> Micros | None:
    """When a job of this operation expires that may start at ``opens_at``; None: never."""
    if isinstance(options.expires_at, datetime):
        return micros(options.expires_at)
    if isinstance(options.expires_at, Never) or operation != "send":
        return None
    return opens_at + EXPIRY
