"""From a call of `send` to the rows that it stores: checked as a whole, before anything touches the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sendq.clock import Micros
from sendq.enqueueing.following import check_following, check_in_call, digest_with, following_of, follows, with_place
from sendq.enqueueing.options import OptionChecks, Options, Send, first_at, given_expiry
from sendq.enqueueing.plan import Following, Plan, Planned
from sendq.enqueueing.rows import Wakes, approval_columns, job_row, key_row
from sendq.enqueueing.senders import Senders, sender_problems
from sendq.enqueueing.spreading import Spread
from sendq.enqueueing.tracing import active_traceparent
from sendq.enqueueing.validation import check_message, check_mime
from sendq.errors import InvalidJob, Problem
from sendq.ids import lane_id, new_ids
from sendq.messages.content import Content
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.payload import SendText, mime_digest, send_digest, send_text
from sendq.messages.reply_place import has_place
from sendq.messages.unsubscribe import LINE_MOST, WITHOUT_HEADER, Links, url_fault
from sendq.messages.wire_format import Request, SharedText, request_of, with_shared_text
from sendq.rules.expiry import EXPIRY
from sendq.rules.rule_ids import AFTER
from sendq.rules.waiting_job import HELD, approve_by_of

_TAGS, _NEEDS_APPROVAL, _WINDOW, _TRACEPARENT = (
    attrgetter(f"options.{name}") for name in ("tags", "needs_approval", "window", "traceparent")
)

NOTHING_DROPPED: Mapping[int, Message] = MappingProxyType({})


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
    texts: Mapping[str, SharedText] | None = None,
    replaces: UUID | None = None,
    spread: Spread | None = None,
    with_digests: bool = False,
) -> Planned:
    """The rows for these sends. With ``indexed``, a problem's field begins with the position: ``[7].to[0].email``.

    ``links`` makes unsubscribe links. ``instead``: messages without their suppressed recipients, by position; the
    digests of keys stay those of the messages as they were passed. ``first``: the position in its call of the first of
    these sends, which are then a part of a batch. ``texts``: bodies that are stored once for all messages with them.
    ``replaces``: the job that gets the message of the only send.
    ``spread``: gives them their due times. ``with_digests``: `Planned.digests` is wanted.

    Raises:
        InvalidJob: with every problem of every send.
    """
    messages, problems = [], []
    checks = OptionChecks(now)
    for position, send in enumerate(sends):
        place = position if indexed and batch_id is None else None
        found = _send_problems(send, place, checks, metadata_key=metadata_key, senders=senders)
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
        with_digests=with_digests,
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
    texts: Mapping[str, SharedText],
    replaces: UUID | None,
    spread: Spread | None,
    indexed: bool,
    with_digests: bool,
) -> Planned:
    """The rows for sends that have been checked; see `plan_sends`."""
    jobs, payloads, keys, names = [], [], [], []
    ids: list[UUID] = []
    digests: list[bytes] = []
    pieces: list[dict[str, Any]] = []
    contents: dict[bytes, Content] = {}
    wakes = Wakes()
    lanes: dict[tuple[str, str], UUID] = {}
    tagged, gated, windowed = (any(map(of_send, sends)) for of_send in (_TAGS, _NEEDS_APPROVAL, _WINDOW))
    active = active_traceparent()
    traced = active is not None or any(map(_TRACEPARENT, sends))
    followings: list[Following] = []
    some_follow = any(follows(send.options) for send in sends)
    job_ids = new_ids(len(sends)) if replaces is None else [replaces]
    for position, (send, job_id) in enumerate(zip(sends, job_ids, strict=True)):
        options = send.options
        name = (options.application, send.grant_id)
        lane = lanes.get(name) or lanes.setdefault(name, lane_id(*name))
        message = messages[position]
        if options.reply_to is not None and isinstance(message, Message):
            message = with_place(message, job_id)
        request, text = _frozen(message, str(job_id), metadata_key, texts)
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
            of_job = _piece_rows(request, job_id)
            pieces += of_job
            contents |= {row["digest"]: piece.content for row, piece in zip(of_job, request.pieces, strict=True)}
        ids.append(job_id)
        names.append(None if options.key is None else (options.application, options.key))
        wakes.add(lane, options, send.grant_id, row["priority"], row["next_at"])
        if options.key is not None or with_digests:
            digests.append(digest_of(send, text if message is send.message else None))
        if options.key is not None:
            keys.append(key_row(options, digests[-1], now=now, job_id=job_id))
    plan = Plan(
        jobs=jobs, payloads=payloads, pieces=pieces, contents=contents, keys=keys, wakes=wakes.rows(),
        message_digest=lambda job_id: message_digest(sends[ids.index(job_id)]),
        followings=followings,
    )  # fmt: skip
    return Planned(plan, ids, names, digests if with_digests else ())


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
    lifetime = None if own_expiry else EXPIRY
    row["expires_at"] = row["expires_at"] if own_expiry else None
    if options.needs_approval:
        row |= {"resume_at": HELD, "approve_by": approve_by_of(HELD, row["expires_at"], None)}
    else:
        row |= {"next_at": HELD, "rule": AFTER}
    followings.append(following_of(options, row["id"], row["lane_id"], ids, field=field, lifetime=lifetime))


def _frozen(
    message: Message | MimeMessage, job_id: str, metadata_key: str, texts: Mapping[str, SharedText]
) -> tuple[Request, SendText | None]:
    """The request of a job, and the JSON of its message: encoded once, because its digest is made of that too."""
    if isinstance(message, MimeMessage):
        return request_of(message, job_id=job_id, metadata_key=metadata_key), None
    shared = texts.get(message.body) if texts and message.body is not None and not message.attachments else None
    if shared is not None:
        text = send_text(message, escaped_body=shared.escaped)
        return with_shared_text(text, shared, job_id=job_id, metadata_key=metadata_key), text
    text = send_text(message)
    return request_of(message, job_id=job_id, metadata_key=metadata_key, text=text), text


def digest_of(send: Send, text: SendText | None = None) -> bytes:
    """The digest of what a (checked) message asks for. ``text``: the JSON of its message, if it is known already."""
    options = send.options
    given: dict[str, Any] = {
        "application": options.application,
        "grant_id": send.grant_id,
        "due_at": options.due_at,
        "expires_at": given_expiry(options.expires_at),
    }
    if isinstance(send.message, MimeMessage):
        digest = mime_digest(send.message, **given)
    else:
        digest = send_digest(send.message, **given, text=text)
    return digest_with(digest, options) if follows(options) else digest


def message_digest(send: Send) -> bytes:
    """The digest of a message, its grant and its application, whenever and after whatever it was to be sent."""
    options = replace(send.options, due_at=None, expires_at=None, after=None, delay=None, unless=None, reply_to=None)
    return digest_of(replace(send, options=options))


def _piece_rows(request: Request, job_id: UUID) -> list[dict[str, Any]]:
    return [
        {"job_id": job_id, "position": position, "digest": piece.content.measure().digest, "after": piece.after}
        for position, piece in enumerate(request.pieces)
    ]


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
    send: object, position: int | None, checks: OptionChecks, *, metadata_key: str, senders: Senders | None
) -> list[Problem]:
    if not isinstance(send, Send):
        return [Problem("", "is not a sendq.Send", "create one: Send(grant_id, Message(…), Options(key=…))")]
    problems = checks.problems(send.grant_id, send.options)
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
