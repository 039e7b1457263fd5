"""Sends and batches of sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sendq.api.decoding import (
    Given,
    arguments,
    batch_of,
    check_reason,
    message_of,
    option_hints,
    problems_of,
    send_of,
    sends_of,
    shortened,
)
from sendq.api.operation import NO_HINTS, Asked, Result, may_see, require_visible, shown
from sendq.api.problems import KEY_CONFLICT, Refused
from sendq.changes import check_content
from sendq.enqueueing.options import Send
from sendq.errors import InvalidJob, KeyConflict, NotFound, Problem
from sendq.rules.suppression import Suppressed
from sendq.views import Batch

CANCEL: dict[str, Any] = {"reason": str | None}
REPLACE: dict[str, Any] = {"content": int | None, "suppressed": Suppressed | str, "reason": str | None}


def send(asked: Asked) -> Result:
    """Enqueue one message."""
    form = asked.form
    files, mime = (form.files, form.mime) if form is not None else ((), None)
    one = send_of(asked.given, asked.token, key=asked.key, traceparent=asked.traceparent, files=files, mime=mime)
    _require_followed(asked, [one], indexed=False)
    options = {name: getattr(one.options, name) for name in option_hints()}
    try:
        job = asked.queue.send(one.grant_id, one.message, **options)
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None
    return Result(shown(job), 200 if job.existed else 201, f"/v1/jobs/{job.id}")


def replace_message(asked: Asked) -> Result:
    """Replace the message of a send that waits."""
    job_id, form = asked.values["job_id"], asked.form
    require_visible(asked, job_id=job_id)
    files, mime = (form.files, form.mime) if form is not None else ((), None)
    given = Given.of(asked.given)
    options = given.take_some(REPLACE)
    given.problems += problems_of(options, check_reason, lambda found: check_content(found.get("content")))
    message = message_of(given, files=files, mime=mime)
    job = asked.queue.replace(job_id, message, by=asked.author, **options)
    return Result(shown(job))


def send_many(asked: Asked) -> Result:
    """Enqueue many messages, all or none."""
    given = Given.of(asked.given)
    sends = _sends(asked, given)
    try:
        jobs = asked.queue.send_many(sends)
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None
    return Result({"jobs": [shown(job) for job in jobs]}, 201 if any(not job.existed for job in jobs) else 200)


def create_batch(asked: Asked) -> Result:
    """Make a batch of messages, closed or open."""
    given = Given.of(asked.given)
    new = batch_of(given, asked.token, asked.key)
    sends = _sends(asked, given, may_be_missing=new.open is True)
    if not sends and not asked.token.covers_all:
        remedy = "begin with a message: its grants decide which tokens the batch belongs to"
        raise InvalidJob([Problem("sends", "is empty, and the token does not cover every grant", remedy)])
    try:
        batch = asked.queue.send_many(sends, batch=new)
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None
    return made(asked, batch)


def add(asked: Asked) -> Result:
    """Add messages to a batch that is open."""
    batch_id = asked.values["batch_id"]
    require_visible(asked, batch_id=batch_id)
    sends = _sends(asked, Given.of(asked.given))
    try:
        batch = asked.queue.add(batch_id, sends, grants=asked.grants)
    except KeyConflict as conflict:
        raise conflicting(asked, conflict) from None
    return Result(shown(batch), 201 if batch.total else 200, f"/v1/batches/{batch.id}")


def close_batch(asked: Asked) -> Result:
    """Close a batch that is open."""
    arguments(asked.given, NO_HINTS, optional=True)
    require_visible(asked, batch_id=asked.values["batch_id"])
    return Result({"total": asked.queue.close_batch(asked.values["batch_id"], grants=asked.grants)})


def cancel_batch(asked: Asked) -> Result:
    """Cancel a batch."""
    given = arguments(asked.given, CANCEL, check_reason, optional=True)
    require_visible(asked, batch_id=asked.values["batch_id"])
    asked.queue.cancel_batch(asked.values["batch_id"], by=asked.author, grants=asked.grants, **given)
    return Result(shown(asked.queue.batch(asked.values["batch_id"])))


def batch(asked: Asked) -> Result:
    """A batch and its progress."""
    require_visible(asked, batch_id=asked.values["batch_id"])
    return Result(shown(asked.queue.batch(asked.values["batch_id"])))


def _sends(asked: Asked, given: Given, *, may_be_missing: bool = False) -> list[Send]:
    """The messages in ``given``, whose other fields have been taken. Raises `InvalidJob` with all problems."""
    sends = given.left.pop("sends", [] if may_be_missing else None)
    given.end()
    problems = list(given.problems)
    try:
        found = sends_of(sends, asked.token, traceparent=asked.traceparent)
    except InvalidJob as wrong:
        problems += wrong.problems
    if problems:
        raise InvalidJob(problems)
    _require_followed(asked, found, indexed=True)
    return found


def _require_followed(asked: Asked, sends: Sequence[Send], *, indexed: bool) -> None:
    """Raise `InvalidJob` for messages that follow a job which the token does not cover, or which there is not."""
    followed = [
        (position, name, job_id)
        for position, one in enumerate(sends)
        for name in ("after", "reply_to")
        if isinstance(job_id := getattr(one.options, name), str)
    ]
    if not followed:
        return
    owners = asked.queue.owners({job_id for _, _, job_id in followed})
    problems = []
    for position, name, job_id in followed:
        if job_id not in owners or not may_see(asked.token, owners[job_id]):
            problem = Problem(name, "is not a job that the token covers", "pass the id that an earlier send returned")
            problems.append(problem.under(f"[{position}]") if indexed else problem)
    if problems:
        raise InvalidJob(shortened(problems, "sends"))


def made(asked: Asked, new: Batch) -> Result:
    """The answer to a request that makes a batch. A key may name one that the token does not cover."""
    if new.existed:
        try:
            require_visible(asked, batch_id=new.id)
        except NotFound:
            raise Refused("key-conflict", "The key was used before. Use a new key.") from None
    return Result(shown(new), 200 if new.existed else 201, f"/v1/batches/{new.id}")


def conflicting(asked: Asked, conflict: KeyConflict) -> Refused:
    """A conflict names the other job or batch only if the token covers it."""
    for name in ("job_id", "batch_id"):
        which: dict[str, Any] = {name: conflict.job_id}
        try:
            require_visible(asked, **which)
        except NotFound:
            continue
        return Refused("key-conflict", KEY_CONFLICT, **which)
    return Refused("key-conflict", KEY_CONFLICT)
