"""From a call of `send` to the rows that it stores: checked as a whole, before anything touches the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, TypedDict
from uuid import UUID

from sendq.clock import Micros, micros, micros_in, moment
from sendq.enqueueing.arguments import (
    check_flag,
    check_grant,
    check_key,
    check_priority,
    check_times,
    priority_number,
)
from sendq.enqueueing.expiry import Expiry, Never
from sendq.enqueueing.following import check_following, check_in_call, digest_with, following_of, follows, with_place
from sendq.enqueueing.plan import Following, Plan, Planned
from sendq.enqueueing.senders import Senders, sender_problems
from sendq.enqueueing.spreading import Spread, check_window, opening_problems
from sendq.enqueueing.targets import parse_target
from sendq.enqueueing.tracing import active_traceparent, check_traceparent
from sendq.enqueueing.validation import check_message, check_mime
from sendq.errors import InvalidJob, Problem
from sendq.ids import lane_id, new_id
from sendq.messages.characters import header_fault
from sendq.messages.content import Content
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.payload import mime_digest, send_digest
from sendq.messages.reply_place import has_place
from sendq.messages.unsubscribe import LINE_MOST, WITHOUT_HEADER, Links, url_fault
from sendq.messages.wire_format import Request, request_of, with_shared_text
from sendq.rules.pace import PROVIDERS
from sendq.rules.reconcile import Choice
from sendq.rules.rule_ids import AFTER, OUTSIDE_WINDOW
from sendq.rules.suppression import Suppressed
from sendq.rules.tags import check_tags, stored_tags
from sendq.rules.waiting_job import HELD, approve_by_of, unapproved
from sendq.rules.windows import Window, first_opening
from sendq.scope import DEFAULT_APPLICATION
from sendq.views import Job, Priority

# Old mail is worse than none: a send that could not be carried out within three days of its due time expires.
SEND_EXPIRY = timedelta(hours=72)
_SEND_EXPIRY: Micros = micros_in(SEND_EXPIRY)

IN_DOUBT = tuple(choice.value for choice in Choice)
SUPPRESSED = tuple(choice.value for choice in Suppressed)

NOTHING_DROPPED: Mapping[int, Message] = MappingProxyType({})


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


def valid_lane_cap(lane_cap: int | None) -> int | None:
    """``lane_cap``, if it is None or a positive integer. Raises ``ValueError``."""
    if lane_cap is not None and (isinstance(lane_cap, bool) or not isinstance(lane_cap, int) or lane_cap < 1):
        raise ValueError("lane_cap: is not a positive integer; pass one, or None for no limit")
    return lane_cap


def valid_unsubscribe_url(url: str | None) -> str | None:
    """``url``, if it is None or the address of an endpoint. Raises ``ValueError``."""
    if url is not None and (wrong := url_fault(url) if isinstance(url, str) else "is not a string") is not None:
        raise ValueError(f"unsubscribe_url: {wrong}; use the https address of the endpoint")
    return url


def wants_links(send: object) -> bool:
    """Whether a send has a link to be made."""
    return isinstance(send, Send) and isinstance(send.message, Message) and send.message.unsubscribe is not None


def plan_sends(
    sends: Sequence[Send],
    *,
    indexed: bool,
    now: Micros,
    metadata_key: str,
    senders: Senders | None = None,
    links: Links | None = None,
    instead: Mapping[int, Message] = NOTHING_DROPPED,
    batch_id: UUID | None = None,
    first: int = 0,
    texts: Mapping[str, Content] | None = None,
    replaces: UUID | None = None,
    spread: Spread | None = None,
) -> Planned:
    """The rows for these sends. With ``indexed``, a problem's field begins with the position: ``[7].to[0].email``.

    ``links`` makes unsubscribe links. ``instead``: messages without their suppressed recipients, by position; the
    digests of keys stay those of the messages as they were passed. ``first``: the position in its call of the first of
    these sends, which are then a part of a batch. ``texts``: bodies that are stored once for all messages with them.
    ``replaces``: the job that gets the message of the only send.
    ``spread``: gives them their due times.

    Raises:
        InvalidJob: with every problem of every send.
    """
    messages, problems = [], []
    for position, send in enumerate(sends):
        place = position if indexed and batch_id is None else None
        found = _send_problems(send, place, now=now, metadata_key=metadata_key, senders=senders)
        found += check_in_call(sends, position) if place is not None and not found else []
        if not found and spread is not None:
            options = send.options
            found = spread.problems(options.window, first_at(options, now=now), options.expires_at)
        if not found:
            message, found = _linked(instead.get(position, send.message), send.options, links, metadata_key)
            messages.append(message)
        problems += [problem.under(f"[{first + position}]") for problem in found] if indexed else found
    if not problems and batch_id is None:
        problems = _repeated_keys(sends)
    if problems:
        raise InvalidJob(problems)
    return _rows(
        sends, messages, now=now, metadata_key=metadata_key, batch_id=batch_id, first=first, texts=texts or {},
        replaces=replaces,
        spread=spread,
        indexed=indexed,
    )  # fmt: skip


def _linked(
    message: Message | MimeMessage, options: Options, links: Links | None, metadata_key: str
) -> tuple[Message | MimeMessage, list[Problem]]:
    """The message with its unsubscribe links, if it wants some."""
    if not isinstance(message, Message) or message.unsubscribe is None:
        return message, []
    return with_links(message, options, links, metadata_key=metadata_key)


def _rows(
    sends: Sequence[Send],
    messages: Sequence[Message | MimeMessage],
    *,
    now: Micros,
    metadata_key: str,
    batch_id: UUID | None,
    first: int,
    texts: Mapping[str, Content],
    replaces: UUID | None,
    spread: Spread | None,
    indexed: bool,
) -> Planned:
    """The rows for sends that have been checked; see `plan_sends`."""
    jobs, payloads, keys, names = [], [], [], []
    ids: list[UUID] = []
    pieces: list[dict[str, Any]] = []
    contents: dict[bytes, Content] = {}
    wakes = Wakes()
    lanes: dict[tuple[str, str], UUID] = {}
    tagged = any(send.options.tags for send in sends)
    gated = any(send.options.needs_approval for send in sends)
    windowed = any(send.options.window for send in sends)
    active = active_traceparent()
    traced = active is not None or any(send.options.traceparent for send in sends)
    followings: list[Following] = []
    some_follow = any(follows(send.options) for send in sends)
    for position, send in enumerate(sends):
        options, job_id = send.options, replaces or new_id()
        name = (options.application, send.grant_id)
        lane = lanes.get(name) or lanes.setdefault(name, lane_id(*name))
        message = messages[position]
        if options.reply_to is not None and isinstance(message, Message):
            message = with_place(message, job_id)
        request = _request(message, str(job_id), metadata_key, texts)
        due_at = first_at(options, now=now)
        if spread is not None:
            due_at = spread.due_at(first + position, options.window, due_at)
        row = job_row(
            "send", job_id, lane, options, now=now, due_at=due_at, position=first + position, form=request.form,
            tagged=tagged, windowed=windowed,
        )  # fmt: skip
        if gated:
            row |= approval_columns(row, options)
        row["batch_id"] = batch_id
        if traced:  # like the tags
            row["traceparent"] = options.traceparent or active
        if some_follow:
            field = f"[{first + position}]" if indexed else ""
            _add_following(row, followings, options, ids, request, field=field)
        jobs.append(row)
        payload = {"job_id": job_id, "body": request.opening, "content_type": request.content_type, "length": None}
        payloads.append(payload)
        if request.pieces:
            payload["length"] = request.length
            pieces += _piece_rows(request, job_id)
            contents |= {piece.content.measure().digest: piece.content for piece in request.pieces}
        ids.append(job_id)
        names.append(None if options.key is None else (options.application, options.key))
        wakes.add(lane, options, send.grant_id, row["priority"], row["next_at"])
        if options.key is not None:
            keys.append(key_row(options, digest_of(send), now=now, job_id=job_id))
    plan = Plan(
        jobs=jobs, payloads=payloads, pieces=pieces, contents=contents, keys=keys, wakes=wakes.rows(),
        message_digest=lambda job_id: message_digest(sends[ids.index(job_id)]),
        followings=followings,
    )  # fmt: skip
    return Planned(plan, ids, names)


def _add_following(
    row: dict[str, Any],
    followings: list[Following],
    options: Options,
    ids: list[UUID],
    request: Request,
    *,
    field: str,
) -> None:
    """Have the job of this row wait, if it follows another."""
    row.setdefault("rule", None)
    if not follows(options):
        return
    if options.reply_to is not None and not has_place(request.opening, row["id"]):
        problem = Problem(
            "reply_to", "is not possible with a body of 3 MB or more", "send a shorter one, or pass after"
        )
        raise InvalidJob([problem.under(field)] if field else [problem])
    own_expiry = options.expires_at is not None
    lifetime = None if own_expiry else _SEND_EXPIRY
    row["expires_at"] = row["expires_at"] if own_expiry else None
    if options.needs_approval:
        row |= {"resume_at": HELD, "approve_by": approve_by_of(HELD, row["expires_at"], None)}
    else:
        row |= {"next_at": HELD, "rule": AFTER}
    followings.append(following_of(options, row["id"], row["lane_id"], ids, field=field, lifetime=lifetime))


def _request(message: Message | MimeMessage, job_id: str, metadata_key: str, texts: Mapping[str, Content]) -> Request:
    if texts and isinstance(message, Message) and not message.attachments and message.body is not None:
        text = texts.get(message.body)
        if text is not None:
            return with_shared_text(message, text, job_id=job_id, metadata_key=metadata_key)
    return request_of(message, job_id=job_id, metadata_key=metadata_key)


def digest_of(send: Send) -> bytes:
    """The digest of what a (checked) message asks for."""
    options = send.options
    given: dict[str, Any] = {"application": options.application, "grant_id": send.grant_id}
    given |= {"due_at": options.due_at, "expires_at": given_expiry(options.expires_at)}
    if isinstance(send.message, MimeMessage):
        digest = mime_digest(send.message, **given)
    else:
        digest = send_digest(send.message, **given)
    return digest_with(digest, options) if follows(options) else digest


def message_digest(send: Send) -> bytes:
    """The digest of a message, its grant and its application, whenever and after whatever it was to be sent."""
    options = replace(send.options, due_at=None, expires_at=None, after=None, delay=None, unless=None, reply_to=None)
    return digest_of(replace(send, options=options))


def _piece_rows(request: Request, job_id: UUID) -> Iterator[dict[str, Any]]:
    for position, piece in enumerate(request.pieces):
        digest = piece.content.measure().digest
        yield {"job_id": job_id, "position": position, "digest": digest, "after": piece.after}


def job_row(
    operation: str,
    job_id: UUID,
    lane: UUID,
    options: Options,
    *,
    now: Micros,
    due_at: Micros,
    position: int,
    form: str | None = None,
    tagged: bool,
    windowed: bool,
) -> dict[str, Any]:
    """The row of one job, the one at ``position`` in its call; ``tagged``: some job of the call has tags;
    ``windowed``: some has a window.
    """
    opens_at = opening(options, due_at)
    # A microsecond more for each job of a call: `next_at` alone then gives the order of arrival, and a scan of a lane
    # that starts at one job skips none before it. Not added to `due_at`, which orders the jobs of one message: the last
    # job of a large call would come after the first of the next call.
    next_at = opens_at + position
    row = {
        "id": job_id,
        "lane_id": lane,
        "batch_id": None,
        "operation": operation,
        "form": form,
        "object_id": None,
        "priority": priority_of(options),
        "state": "queued",
        "due_at": due_at,
        "next_at": next_at,
        "expires_at": expiry_of(operation, options, opens_at),
        "created_at": now,
        "on_outcome": options.on_outcome,
        "key": options.key,
        "in_doubt": options.in_doubt,
    }
    # All rows of a call have the same columns; most calls have no tags, and do not pay for them.
    if tagged:
        row["tags"] = stored_tags(options.tags)
    if windowed:
        row["time_window"] = None if options.window is None else str(options.window)
        row["rule"] = OUTSIDE_WINDOW if opens_at > due_at else None
    return row


def approval_columns(row: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """The columns with which the row of a job waits for approval. All rows of a call that has some get them."""
    if options.needs_approval:
        return unapproved(row["next_at"], row["expires_at"], row.get("time_window"))
    return {"next_at": row["next_at"], "resume_at": None, "approve_by": None, "rule": row.get("rule")}


def key_row(
    options: Options, digest: bytes, *, now: Micros, job_id: UUID | None = None, batch_id: UUID | None = None
) -> dict[str, Any]:
    return {
        "application": options.application,
        "key": options.key,
        "digest": digest,
        "job_id": job_id,
        "batch_id": batch_id,
        "created_at": now,
    }


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
    return opens_at + _SEND_EXPIRY


# --- checks -----------------------------------------------------------------------------------------------------------


def with_links(
    message: Message, options: Options, links: Links | None, *, metadata_key: str
) -> tuple[Message, list[Problem]]:
    """A checked message with the headers of its ``unsubscribe`` instead of that, and what is wrong with the result."""
    unsubscribe = message.unsubscribe
    assert unsubscribe is not None
    assert links is not None
    if unsubscribe.url is None and links.url is None:
        remedy = "pass unsubscribe_url to the queue, or url with the message"
        return message, [Problem("unsubscribe.url", "is missing, and the queue has none", remedy)]
    (recipient,) = message.to
    headers = links.headers(unsubscribe, options.application, recipient.email)
    if options.provider in WITHOUT_HEADER:
        token = links.token(options.application, unsubscribe.category, recipient.email)
        variables = (message.template.variables or {}).values() if message.template is not None else ()
        if not any(token in text for text in (message.body or "", *variables)):
            reason = f"is a header that {options.provider} does not carry, and the body has no link"
            remedy = "put the link that unsubscribe_url() returns for this recipient into the body"
            return message, [Problem("unsubscribe", reason, remedy)]
    if any(len(value) > LINE_MOST for _, value in headers):
        return message, [Problem("unsubscribe", "makes too long a header", "use a shorter category, url or mailto")]
    more = [{"name": name, "value": value} for name, value in headers]
    changed = message.model_copy(update={"custom_headers": [*message.custom_headers, *more], "unsubscribe": None})
    return changed, check_message(changed, provider=options.provider, metadata_key=metadata_key)


def _send_problems(
    send: object, position: int | None, *, now: Micros, metadata_key: str, senders: Senders | None
) -> list[Problem]:
    if not isinstance(send, Send):
        return [Problem("", "is not a sendq.Send", "create one: Send(grant_id, Message(…), Options(key=…))")]
    problems = option_problems(send.grant_id, send.options, now=now)
    message: object = send.message
    problems += check_following(send.options, message, position)
    provider = send.options.provider if isinstance(send.options.provider, str) else None
    if isinstance(message, Message):
        problems += check_message(message, provider=provider, metadata_key=metadata_key)
        return problems + sender_problems("from", [one.email for one in message.from_], send.grant_id, senders)
    if isinstance(message, MimeMessage):
        problems += (found := check_mime(message, provider=provider))
        for name, addresses in ({} if found else message.senders()).items():
            problems += sender_problems(f"mime.{name}", addresses, send.grant_id, senders)
        return problems
    remedy = "create one: Message(to=[…], subject=…, body=…)"
    return [*problems, Problem("message", "is neither a sendq.Message nor a sendq.MimeMessage", remedy)]


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


def _repeated_keys(sends: Sequence[Send]) -> list[Problem]:
    first: dict[tuple[str, str], int] = {}
    problems = []
    for position, send in enumerate(sends):
        if send.options.key is None:
            continue
        name = (send.options.application, send.options.key)
        if name in first:
            reason = f"is the same as the key of [{first[name]}]"
            problems.append(Problem(f"[{position}].key", reason, "use a different key for each message"))
        else:
            first[name] = position
    return problems


# --- wake rows --------------------------------------------------------------------------------------------------------


class Wakes:
    """One wake row for each lane of a call: the earliest due time of its new jobs, by priority."""

    def __init__(self) -> None:
        self._rows: dict[UUID, dict[str, Any]] = {}

    def add(self, lane: UUID, options: Options, grant_id: str, priority: int, at: Micros) -> None:
        """A job of this lane is due then."""
        row = self._rows.setdefault(
            lane,
            {
                "lane_id": lane,
                "application": options.application,
                "grant_id": grant_id,
                "provider": options.provider,
                "high_at": None,
                "normal_at": None,
                "low_at": None,
            },
        )
        name = ("high_at", "normal_at", "low_at")[priority]
        row[name] = at if row[name] is None else min(row[name], at)

    def rows(self) -> list[dict[str, Any]]:
        """The rows to be inserted."""
        return list(self._rows.values())
