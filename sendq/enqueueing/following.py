"""Jobs that follow another: ``after``, ``delay``, ``unless`` and ``reply_to`` of a call of `send`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sendq.clock import Micros, micros_in
from sendq.enqueueing.options import Options, Send
from sendq.enqueueing.plan import Following
from sendq.errors import Problem
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.messages.reply_place import place_of_id
from sendq.rules.after import check_delay, check_unless, stored_unless
from sendq.views import Job

OPTIONS = ("after", "delay", "unless", "reply_to")


def follows(options: Options) -> bool:
    """Whether a job waits for another one."""
    return options.after is not None or options.reply_to is not None


def check_following(options: Options, message: object, position: int | None) -> list[Problem]:
    """What is wrong with how a send follows another; ``position``: its place in the call, where it may name an earlier
    one by that.
    """
    if not follows(options):
        alone = [name for name in ("delay", "unless") if getattr(options, name) is not None]
        return [Problem(name, "is given without after", "pass after, or leave it out") for name in alone]
    problems: list[Problem] = []
    for name in ("after", "reply_to"):
        problems += _check_target(name, getattr(options, name), position)
    both = options.after is not None and options.reply_to is not None
    if not problems and both and _target(options.after) != _target(options.reply_to):
        reason = "names a different job from after"
        problems.append(Problem("reply_to", reason, "pass the same job, or only one of the two"))
    if options.reply_to is not None:
        if isinstance(message, MimeMessage):
            reason = "is not possible with a finished message"
            problems.append(Problem("reply_to", reason, "send a sendq.Message, or pass after, and set In-Reply-To"))
        elif isinstance(message, Message) and message.reply_to_message_id is not None:
            reason = "is given, and so is the message's reply_to_message_id"
            problems.append(Problem("reply_to", reason, "leave one of them out"))
    return problems + check_delay(options.delay) + check_unless(options.unless)


def check_in_call(sends: Sequence[Send], position: int) -> list[Problem]:
    """What is wrong with following an earlier send of the same call; it has been checked by itself."""
    options = sends[position].options
    target = _followed(options)
    if not isinstance(target, int):
        return []
    name = "after" if options.after is not None else "reply_to"
    if sends[target].options.application != options.application:
        return [Problem(name, "is a job of another application", "enqueue both for the same application")]
    if options.reply_to is not None and sends[target].grant_id != sends[position].grant_id:
        remedy = "send the reply with the grant of that job, or pass after"
        return [Problem("reply_to", "is a job of another grant", remedy)]
    return []


def refused_for_changes(options: Options) -> list[Problem]:
    """What is wrong with options of a bulk call: its jobs follow no other."""
    reason = "is for sends only"
    return [Problem(name, reason, "leave it out") for name in OPTIONS if getattr(options, name) is not None]


def _check_target(name: str, value: object, position: int | None) -> list[Problem]:
    if value is None:
        return []
    if isinstance(value, int) and not isinstance(value, bool):
        if position is None:
            reason = "is a position, which names a message only in a call of send_many without a batch"
            return [Problem(name, reason, "pass the job that send returned, or its id")]
        if not 0 <= value < position:
            return [Problem(name, "is not the position of an earlier message", "count from 0, and pass an earlier one")]
        return []
    if _target(value) is None:
        return [Problem(name, "is not a job", "pass the job that send returned, or its id")]
    return []


def _target(value: object) -> UUID | int | None:
    """The job that a value names: its id, or its position; None: it names none."""
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    text = value.id if isinstance(value, Job) else value
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _followed(options: Options) -> UUID | int | None:
    """The job that a send follows; None: it follows none."""
    return _target(options.after if options.after is not None else options.reply_to)


def _delay(options: Options) -> Micros:
    return 0 if options.delay is None else micros_in(options.delay)


def following_of(
    options: Options, job_id: UUID, lane_id: UUID, ids: list[UUID], *, field: str, lifetime: Micros | None
) -> Following:
    """How a checked send follows another; ``ids``: those of the jobs before it in the call."""
    target = _followed(options)
    assert target is not None
    return Following(
        job_id=job_id,
        after_id=ids[target] if isinstance(target, int) else target,
        lane_id=lane_id,
        application=options.application,
        field=field,
        delay=_delay(options),
        unless=stored_unless(options.unless),
        replies=options.reply_to is not None,
        lifetime=lifetime,
    )


def with_place(message: Message, job_id: UUID) -> Message:
    """The message with the place of the id of the message that it replies to."""
    return message.model_copy(update={"reply_to_message_id": place_of_id(job_id)})


def digest_with(digest: bytes, options: Options) -> bytes:
    """The digest of what a send asks for, with what it follows: a key with another ``after`` is a conflict."""
    facts: list[Any] = [
        str(_followed(options)),
        _delay(options),
        stored_unless(options.unless),
        options.reply_to is not None,
    ]
    return hashlib.sha256(digest + json.dumps(facts).encode()).digest()
