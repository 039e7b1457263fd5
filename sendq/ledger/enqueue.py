"""Enqueue: the rows of new jobs, in the caller's own transaction.

No lane is written here, or two requests that enqueue for the grants A, B and B, A could deadlock. Lanes learn about new
jobs from the append-only ``wake`` rows. Only callers with equal keys wait for each other, and keys are inserted in
order, so that they cannot deadlock either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hmac import compare_digest
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Table, TwoPhaseTransaction, select, text, tuple_, update

from sendq.bindings import key_context
from sendq.clock import Micros
from sendq.enqueueing.plan import Plan
from sendq.errors import KeyConflict
from sendq.ledger import sealing
from sendq.ledger.contents import store_pieces
from sendq.ledger.db import constant, schema
from sendq.ledger.db.bulk import CHUNK, chunks, insert_new, insert_rows, insert_together, insert_together_if_new
from sendq.rules.tags import each_tag
from sendq.vault import Vault

NO_VAULT = Vault()

# The columns of a wake row by priority.
_WAKES = ("high_at", "normal_at", "low_at")

# Before the digest of a key whose message was replaced: the digest of the message alone, without the times that the
# first call asked for.
REPLACED = b"replaced "

# The leader's row has the time until which it sleeps. Only a commit with earlier work wakes it: a NOTIFY is not free
# (it takes a lock that all commits share).
CHANNEL = "sendq_wake"
_NOTIFYING = "SELECT pg_notify('sendq_wake', '') FROM sendq_leader WHERE sleeps_until > :at"
_NOTIFY = text(_NOTIFYING)
# The same in a statement that inserts a job only if its key is new; a row in any case if it is.
_NOTIFYING_IF_NEW = (
    "SELECT CASE WHEN sleeps_until > :at THEN pg_notify('sendq_wake', '') END FROM fresh LEFT JOIN sendq_leader ON true"
)


def store(
    connection: Connection, plan: Plan, *, at: Micros, vault: Vault = NO_VAULT, last: bool = False
) -> dict[tuple[str, str], UUID]:
    """Insert a plan, encrypted. Returns what its keys already name: the id of a job or batch by (application, key).

    ``last``: this is the last step of the transaction, which is not a caller's.

    Rows of a key that already exists with the same content are not stored; with different content it is an error.

    Raises:
        KeyConflict: a key names a job or batch with different content.
        InvalidJob: a file changed between being measured and being read; roll back.
        Unreadable: a key exists, and its digest is sealed with an encryption key that this vault does not have, or
            was altered.
    """
    if _is_lone_with_key(plan) and connection.dialect.name == "postgresql":
        return _store_if_new(connection, plan, at=at, vault=vault, last=last)
    found = _claim_keys(connection, plan, vault) if plan.keys else {}
    known = {key["job_id"] or key["batch_id"] for key in plan.keys if (key["application"], key["key"]) in found}
    batch: list[Mapping[str, Any]] = []
    if plan.batch is not None:
        if plan.batch["id"] in known:
            return found
        batch.append(sealing.batch_row(plan.batch, vault))
    jobs = chunks(sealing.job_rows(_new(plan.jobs, "id", known), vault))
    payloads = chunks(sealing.payload_rows(_new(plan.payloads, "job_id", known), plan, vault))
    first = next(jobs, [])
    parts: list[tuple[Table, Sequence[Mapping[str, Any]]]] = [
        (schema.batch, batch),
        (schema.job, first),
        (schema.payload, next(payloads, [])),
        (schema.job_tag, tag_rows(first)),
    ]
    stored = bool(first)
    if not plan.pieces and all(len(rows) < CHUNK for _, rows in parts):  # these are all rows
        if stored:
            parts.append((schema.wake, plan.wakes))
        notifying = _NOTIFYING if stored and _can_notify(connection) else ""
        insert_together(connection, parts, notifying, last=last, at=at)
        return found
    insert_together(connection, parts)
    for chunk in jobs:
        insert_rows(connection, schema.job, chunk)
        insert_rows(connection, schema.job_tag, tag_rows(chunk))
    for chunk in payloads:
        insert_rows(connection, schema.payload, chunk)
    if plan.pieces:
        pieces = [piece for piece in plan.pieces if piece["job_id"] not in known]
        store_pieces(connection, pieces, plan.contents, vault=vault)
    if stored:
        append_wakes(connection, plan.wakes, at=at)
    return found


def _is_lone_with_key(plan: Plan) -> bool:
    """Whether it is one send with a key, without files."""
    if len(plan.keys) != 1 or plan.batch is not None or plan.pieces:
        return False
    return isinstance(plan.jobs, list) and len(plan.jobs) == len(plan.payloads) == 1


def _store_if_new(
    connection: Connection, plan: Plan, *, at: Micros, vault: Vault, last: bool
) -> dict[tuple[str, str], UUID]:
    """`store` for one send with a key, in one statement on PostgreSQL if its key is new."""
    (key,), jobs = plan.keys, list(sealing.job_rows(plan.jobs, vault))
    parts: list[tuple[Table, Sequence[Mapping[str, Any]]]] = [
        (schema.job, jobs),
        (schema.payload, list(sealing.payload_rows(plan.payloads, plan, vault))),
        (schema.job_tag, tag_rows(jobs)),
        (schema.wake, plan.wakes),
    ]
    then = _NOTIFYING_IF_NEW if _can_notify(connection) else "SELECT 1 FROM fresh"
    row = schema.key, _sealed_key(key, vault)
    if insert_together_if_new(connection, row, parts, then, last=last, at=at):
        return {}
    return _named_before(connection, [key], plan, vault)


def _new(rows: Iterable[Mapping[str, Any]], name: str, known: set[UUID]) -> Iterable[Mapping[str, Any]]:
    """The rows of jobs that no key named before."""
    return (row for row in rows if row[name] not in known) if known else rows


def tag_rows(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows by which jobs are found by their tags; all of ``jobs`` have the same columns."""
    if not jobs or "tags" not in jobs[0]:
        return []
    return [{"tag": tag, "job_id": job["id"]} for job in jobs for tag in each_tag(job["tags"])]


def append_wakes(connection: Connection, wakes: Sequence[Mapping[str, Any]], *, at: Micros) -> None:
    """Record which lanes have new jobs, and wake the dispatcher if it would sleep too long."""
    insert_rows(connection, schema.wake, wakes)
    notify(connection, at=at)


def wakes_of(rows: Iterable[Any], starts: Mapping[UUID, Micros]) -> list[dict[str, Any]]:
    """A wake row for each lane of these jobs, with the earliest start by priority."""
    wakes: dict[UUID, dict[str, Any]] = {}
    for row in rows:
        lane = {"lane_id": row.lane_id, "application": row.application, "grant_id": row.grant_id}
        wake = wakes.setdefault(row.lane_id, lane | {"provider": row.provider} | dict.fromkeys(_WAKES))
        name = _WAKES[row.priority]
        if wake[name] is None or starts[row.id] < wake[name]:
            wake[name] = starts[row.id]
    return list(wakes.values())


def notify(connection: Connection, *, at: Micros) -> None:
    """Wake the dispatcher at commit, if it sleeps until later than ``at``.

    On SQLite the dispatcher polls instead, and so it does for a two-phase commit: PostgreSQL cannot prepare a
    transaction that notifies.
    """
    if _can_notify(connection):
        constant.rows(connection, _NOTIFY, {"at": at})


def _can_notify(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" and not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def _claim_keys(connection: Connection, plan: Plan, vault: Vault) -> dict[tuple[str, str], UUID]:
    """Insert the keys. Returns those that existed already, with the ids that they name."""
    found: dict[tuple[str, str], UUID] = {}
    wanted = sorted(plan.keys, key=lambda row: (row["application"], row["key"]))
    by_application = groupby(wanted, key=lambda row: row["application"])
    for chunk in (chunk for _, rows in by_application for chunk in chunks(rows)):
        # One application at a time, because only the key is returned.
        sealed_rows = [_sealed_key(row, vault) for row in chunk]
        fresh = insert_new(connection, schema.key, sealed_rows, returning="key")
        taken = [row for row in chunk if row["key"] not in fresh]
        if taken:
            found |= _named_before(connection, taken, plan, vault)
    return found


def _named_before(
    connection: Connection, taken: Sequence[Mapping[str, Any]], plan: Plan, vault: Vault
) -> dict[tuple[str, str], UUID]:
    """What these keys of a plan name, which were used before; raises as `store` does."""
    found: dict[tuple[str, str], UUID] = {}
    names = [(row["application"], row["key"]) for row in taken]
    table = schema.key.c
    rows = connection.execute(select(schema.key).where(tuple_(table.application, table.key).in_(names)))
    there = {(row.application, row.key): row for row in rows}
    for row in taken:
        name = (row["application"], row["key"])
        alone = None if plan.message_digest is None else partial(plan.message_digest, row["job_id"])
        found[name] = require_same(there[name], row["digest"], vault, message_digest=alone)
    return found


def require_same(
    first: Row[Any], digest: bytes, vault: Vault, *, message_digest: Callable[[], bytes] | None = None
) -> UUID:
    """The id of the job or batch that an existing key names, if it was used with this content.

    ``message_digest``: makes the digest of the message alone, with which a replaced message is compared.

    Raises `KeyConflict`, or `Unreadable` as `store` does.
    """
    target: UUID = first.job_id or first.batch_id
    if not _same_content(first, digest, vault, message_digest):
        raise KeyConflict(first.key, str(target))
    return target


def replace_key(connection: Connection, application: str, key: str, job_id: UUID, digest: bytes, vault: Vault) -> None:
    """Have a key name new content of its job: ``digest`` is that of the message alone. One that was erased stays so."""
    table = schema.key
    row = {"application": application, "key": key, "digest": REPLACED + digest, "job_id": job_id, "batch_id": None}
    made = _sealed_key(row, vault)
    this = (table.c.application == application, table.c.key == key, table.c.job_id == job_id, table.c.digest != b"")
    new = {"digest": made["digest"], "cipher_key": made.get("cipher_key")}
    connection.execute(update(table).where(*this).values(**new))


def _sealed_key(row: Mapping[str, Any], vault: Vault) -> Mapping[str, Any]:
    if not vault:
        return row
    context = key_context(row["application"], row["key"], row["job_id"] or row["batch_id"])
    digest = vault.seal(row["digest"], context=context)
    return {**row, "digest": digest.data, "cipher_key": digest.key_name}


def _same_content(first: Row[Any], digest: bytes, vault: Vault, message_digest: Callable[[], bytes] | None) -> bool:
    """Whether an existing key was used with this content. One whose digest was erased matches any."""
    known = bytes(first.digest)
    if not known:
        return True
    if first.cipher_key is not None:
        known = vault.open(
            known, first.cipher_key, context=key_context(first.application, first.key, first.job_id or first.batch_id)
        )
    if known.startswith(REPLACED) and len(known) > len(digest):
        return message_digest is not None and compare_digest(known[len(REPLACED) :], message_digest())
    return compare_digest(known, digest)
