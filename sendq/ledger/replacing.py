"""Replacing the message of a send that waits: the same job and key, other content.

The job gets a new content version: a worker that has loaded another one does not begin it
(`sendq.ledger.dispatching.turns`). Its idempotency key stays. No request that the API may have kept was made under that
key, or the job could not be replaced; and if the ledger loses this change and the send after it, a repeat of the old
message under the same key is no second mail. The event has the keyed digests of both requests.

Contents (files, shared texts) are counted by the pieces that refer to them: those of the old message are deleted here,
and a content that no other request has by `sendq.ledger.contents.drop_unused_contents`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, select, update

from sendq.bindings import File, payload_context
from sendq.clock import Micros
from sendq.enqueueing.options import Options, Send
from sendq.enqueueing.plan import Plan, Planned
from sendq.enqueueing.planning import message_digest
from sendq.enqueueing.suppressing import Hit
from sendq.errors import Altered, InvalidArgument, NotWaiting, Problem, SuppressedRecipients
from sendq.facts.lanes import UNKNOWN
from sendq.ledger import events, sealing
from sendq.ledger.contents import files_of, insert_pieces, pieces_of, store_contents
from sendq.ledger.db import schema
from sendq.ledger.enqueue import replace_key
from sendq.ledger.following import what_it_replies_to, with_known_id
from sendq.ledger.reading import lookup
from sendq.ledger.secrets import digest_key
from sendq.ledger.storing import begin_before_savepoint, lock_before_reading
from sendq.ledger.suppressing import Enqueuer, note_dropped
from sendq.ledger.waiting_jobs import Author, lane_of
from sendq.messages.digests import request_digest
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage
from sendq.rules.suppression import Suppressed
from sendq.rules.waiting_job import after_replacement, other_content, refusal
from sendq.vault import Vault
from sendq.views import Job, Replacement

KIND = "replace"


def send_instead(
    connection: Connection,
    job_id: UUID,
    message: Message | MimeMessage,
    suppressed: Suppressed | str,
    *,
    content: int | None = None,
) -> Send:
    """The new message of a job, with what the job has that its check needs. Nothing is locked (on SQLite the ledger is,
    if this joins a transaction, which is refused a write after it has read).

    ``content``: the content version that is to be replaced; None: any.

    Raises:
        NotFound: there is no such job.
        NotWaiting: it cannot be changed any more, or has another content version.
        InvalidArgument: it is not a send.
    """
    if not connection.get_execution_options().get("sendq_reads"):
        begin_before_savepoint(connection)
        lock_before_reading(connection)
    found = connection.execute(select(schema.job).where(schema.job.c.id == job_id)).first()
    row = _require_replaceable(found, job_id, content)
    lane = lane_of(connection, row)
    provider = None if lane["provider"] == UNKNOWN else lane["provider"]
    follows = what_it_replies_to(connection, job_id)
    reply_to = None if follows is None else follows.after_id
    options = Options(application=lane["application"], provider=provider, suppressed=suppressed, reply_to=reply_to)
    return Send(lane["grant_id"], message, options)


def replace_message(
    connection: Connection,
    job_id: UUID,
    send: Send,
    plan: Callable[..., Planned],
    author: Author,
    *,
    own: Sequence[Hit],
    enqueuer: Enqueuer,
    vault: Vault,
    now: Micros,
    content: int | None = None,
    dry_run: bool = False,
) -> Replacement:
    """Replace the message of a job; returns the job, who was dropped, and whether it was replaced.

    ``send``, ``content``: from and as in `send_instead`; ``plan``: plans it, without dropped recipients; ``own``: who
    is suppressed by the application's own list; ``dry_run``: it is rolled back. The job is locked last, since its
    account's other jobs may wait for that lock.

    Raises:
        NotFound, NotWaiting, InvalidArgument: as `send_instead`: it may have begun since.
        InvalidJob, SuppressedRecipients: as at enqueue.
        Unreadable: what is stored of it is encrypted with a key that the vault does not have.
    """
    begin_before_savepoint(connection)
    lock_before_reading(connection)
    with connection.begin_nested() as step:
        verdict = enqueuer.judge(connection, [send], own=own, indexed=False, of_batch=False, now=now, vault=vault)
        if verdict.problems:
            raise SuppressedRecipients(verdict.problems)
        planned = plan(instead=verdict.instead).plan
        contents = store_contents(connection, planned.pieces, planned.contents, vault=vault)
        job = schema.job
        locked = connection.execute(select(job).where(job.c.id == job_id).with_for_update()).first()
        row = _require_replaceable(locked, job_id, content)
        if send.options.reply_to is not None and (follows := what_it_replies_to(connection, job_id)) is not None:
            planned = with_known_id(planned, follows)
        if row.key is not None:  # it may name what was dropped from the message that is stored
            replace_key(connection, send.options.application, row.key, job_id, message_digest(send), vault)
        replaced = _exchange(connection, row, planned, contents, lane_of(connection, row), author, vault, now=now)
        if replaced:
            note_dropped(connection, [send], verdict, {0: Job(str(job_id))}, now=now)
        if dry_run:
            step.rollback()
    return Replacement(
        str(job_id), existed=True, dropped=tuple(hit.field for hit in verdict.dropped.get(0, ())), replaced=replaced,
        content_version=row.content_version + (replaced and not dry_run),
    )  # fmt: skip


def _require_replaceable(row: Row[Any] | None, job_id: UUID, content: int | None) -> Row[Any]:
    if row is None:
        raise lookup.no_such_job(job_id)
    if row.operation != "send":
        raise InvalidArgument([Problem("job_id", "is not a send", "cancel it, and enqueue another change instead")])
    if (because := refusal(row)) is not None:
        raise NotWaiting("job", str(job_id), row.state, because)
    if (because := other_content(row, content)) is not None:
        raise NotWaiting("job", str(job_id), row.state, because, content_version=row.content_version)
    return row


def _exchange(
    connection: Connection, row: Row[Any], plan: Plan, contents: Mapping[bytes, UUID], lane: Mapping[str, Any],
    author: Author, vault: Vault, *, now: Micros,
) -> bool:  # fmt: skip
    """Store the new request of a locked job instead of the old one; False: they are the same."""
    job, payload = schema.job, schema.payload
    key = digest_key(connection, vault)
    before = _digest_of_stored(connection, row, key, vault)
    (new,), (new_job,) = plan.payloads, plan.jobs
    pieces = [(piece["digest"], piece["after"]) for piece in plan.pieces]
    after = request_digest(key, new_job["form"], new["content_type"], new["body"], pieces)
    if before == after:
        return False
    form = {"form": new_job["form"]}
    connection.execute(delete(schema.piece).where(schema.piece.c.job_id == row.id))
    files = [File(piece["digest"], plan.contents[piece["digest"]].measure().size) for piece in plan.pieces]
    sealed = sealing.payload_row(new, {**row._mapping, **form}, files, vault)
    columns = {name: sealed.get(name) for name in ("body", "content_type", "length", "cipher_key")}
    connection.execute(update(payload).where(payload.c.job_id == row.id).values(**columns))
    insert_pieces(connection, plan.pieces, contents, vault=vault)
    version = row.content_version + 1
    changes = form | {"content_version": version} | after_replacement(row, now=now)
    connection.execute(update(job).where(job.c.id == row.id).values(**changes))
    digests = f"request {before.hex()} to {after.hex()}, content version {version}"
    fields = {"job_id": row.id, "batch_id": row.batch_id, "at": now, "by": author.by}
    events.append(connection, KIND, **fields, reason=author.reason_with(digests), **lane)
    return True


def _digest_of_stored(connection: Connection, row: Row[Any], key: bytes, vault: Vault) -> bytes:
    """The digest of a job's request as it is stored."""
    table = schema.payload
    stored = connection.execute(select(table).where(table.c.job_id == row.id)).first()
    if stored is None:
        raise Altered("")
    files = files_of(connection, [row.id]).get(row.id, [])
    context = payload_context(
        row.id, row.lane_id, row.batch_id, row.operation, row.form, row.object_id, stored.content_type, stored.length,
        files,
    )  # fmt: skip
    opening = vault.open(bytes(stored.body), stored.cipher_key, context=context)
    pieces = pieces_of(connection, row.id, vault=vault)
    return request_digest(
        key, row.form, stored.content_type, opening, [(piece.digest, piece.after) for piece in pieces]
    )
