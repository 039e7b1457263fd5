"""Rekey: encrypt everything in the ledger with the vault's first key, so that older keys can be removed.

In small steps, each one transaction, while workers and web applications keep running: a row is read and written under
its lock, so that its body and the name of its key always belong together for a reader. An interrupted rekey can be run
again: rows that already have the first key are skipped.

Rows that cannot be opened are not changed, and unencrypted ones only if the vault accepts them: anybody who can write
to the ledger could otherwise have their own rows encrypted, which then count as ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Row, Table, func, or_, select, tuple_, update

from sendq.bindings import (
    File,
    batch_context,
    chunk_context,
    delivery_context,
    key_context,
    payload_context,
    piece_context,
    secret_context,
    snapshot_context,
    tag_context,
)
from sendq.errors import Altered, NotEncrypted, Unreadable
from sendq.ledger.contents import files_of
from sendq.ledger.db import schema
from sendq.vault import Sealed, Vault

# Rows and bytes in one step: locks last milliseconds, and memory stays small.
STEP_ROWS = 500
STEP_BYTES = 8_000_000

Files = Mapping[UUID, Sequence[File]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A table with a sealed column, and the context that each of its rows is bound to (`sendq.bindings`).

    ``there``: which rows have something to seal. ``beside``: another table that the context needs, and how to join it.
    ``tags``: the column has tags, which hide nothing, and not encrypted data.
    """

    column: Column[Any]
    key: Column[str]
    there: ColumnElement[bool]
    context: Callable[[Row[Any], Files], bytes]
    beside: tuple[Table, ColumnElement[bool]] | None = None
    tags: bool = False

    @property
    def table(self) -> Table:
        """The table that has the column."""
        return self.column.table

    @property
    def identity(self) -> Sequence[Column[Any]]:
        """The primary key: rows are processed in its order."""
        return tuple(self.table.primary_key.columns)

    def rows(self) -> tuple[list[Column[Any]], FromClause]:
        """Everything that a context needs: columns, without those of the same name of the other table."""
        if self.beside is None:
            return list(self.table.columns), self.table
        other, on = self.beside
        own = {column.name for column in self.table.columns}
        columns = [*self.table.columns, *(column for column in other.columns if column.name not in own)]
        return columns, self.table.join(other, on)


def _of_payload(row: Row[Any], files: Files) -> bytes:
    job = (row.job_id, row.lane_id, row.batch_id, row.operation, row.form, row.object_id)
    return payload_context(*job, row.content_type, row.length, files.get(row.job_id, ()))


def _of_batch(row: Row[Any], files: Files) -> bytes:
    return batch_context(row.id, row.lane_id, row.operation, row.target, row.hard, row.fields, row.content_type)


def _of_tag(row: Row[Any], files: Files) -> bytes:
    return tag_context(row.batch_id, row.lane_id, row.operation, row.object_id)


def _of_found(row: Row[Any], files: Files) -> bytes:
    return snapshot_context(row.batch_id, row.lane_id, row.object_id, "before")


def _of_snapshot(when: str) -> Callable[[Row[Any], Files], bytes]:
    return lambda row, files: snapshot_context(row.batch_id, row.lane_id, row.object_id, when)


_job, _payload, _batch, _found = schema.job, schema.payload, schema.batch, schema.found
_piece, _content, _chunk, _named = schema.piece, schema.content, schema.chunk, schema.key
_snapshot = schema.snapshot


def _kept(column: Column[Any], context: Callable[[Row[Any], Files], bytes], **more: Any) -> Kept:
    """A table with an encrypted column. Empty values are erased ones, and need no key."""
    return Kept(column, column.table.c.cipher_key, func.length(column) > 0, context, **more)


# Every encrypted column, and every column of tags.
KEPT = (
    _kept(_payload.c.body, _of_payload, beside=(_job, _job.c.id == _payload.c.job_id)),
    _kept(_batch.c.body, _of_batch),
    Kept(
        _found.c.before, _found.c.before_key, _found.c.before.is_not(None), _of_found,
        beside=(_batch, _batch.c.id == _found.c.batch_id),
    ),
    Kept(
        _snapshot.c.before, _snapshot.c.before_key, _snapshot.c.before.is_not(None), _of_snapshot("before"),
        beside=(_job, _job.c.id == _snapshot.c.job_id),
    ),
    Kept(
        _snapshot.c.after, _snapshot.c.after_key, _snapshot.c.after.is_not(None), _of_snapshot("after"),
        beside=(_job, _job.c.id == _snapshot.c.job_id),
    ),
    Kept(_job.c.seal, _job.c.seal_key, _job.c.object_id.is_not(None), _of_tag, tags=True),
    Kept(
        _found.c.seal, _found.c.seal_key, _found.c.object_id.is_not(None), _of_tag,
        beside=(_batch, _batch.c.id == _found.c.batch_id), tags=True,
    ),
    _kept(
        _piece.c.after, lambda row, files: piece_context(row.job_id, row.position, bytes(row.digest)),
        beside=(_content, _content.c.id == _piece.c.content_id),
    ),
    _kept(
        _chunk.c.data, lambda row, files: chunk_context(File(bytes(row.digest), row.size), row.position),
        beside=(_content, _content.c.id == _chunk.c.content_id),
    ),
    _kept(
        _named.c.digest, lambda row, files: key_context(row.application, row.key, row.job_id or row.batch_id)
    ),
    _kept(schema.delivery.c.addresses, lambda row, files: delivery_context(row.id)),
    _kept(schema.secret.c.value, lambda row, files: secret_context(row.name)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one step. ``after``: where the next one begins; None: the table is done."""

    sealed: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)  # rows by the name of the missing key
    unencrypted: int = 0  # rows that were left so
    altered: int = 0
    after: tuple[Any, ...] | None = None

    def __add__(self, other: Step) -> Step:
        return Step(
            self.sealed + other.sealed,
            self.unreadable + other.unreadable,
            self.unencrypted + other.unencrypted,
            self.altered + other.altered,
            other.after,
        )


def step(connection: Connection, kept: Kept, vault: Vault, *, after: tuple[Any, ...] | None) -> Step:
    """Encrypt up to `STEP_ROWS` rows of one table after ``after`` that do not have the first key yet."""
    assert vault.seals_with is not None
    found = connection.execute(_others(kept, vault, after)).all()
    rows = _within_bytes(found)
    wanted = [tuple(row)[:-1] for row in rows]
    done = len(rows) == len(found) < STEP_ROWS
    result = Step(after=None if done else wanted[-1])
    if not wanted:
        return result
    columns, source = kept.rows()
    of_these = tuple_(*kept.identity).in_(wanted)
    full = select(*columns).select_from(source).where(of_these).order_by(*kept.identity)
    there = connection.execute(full.with_for_update(of=kept.table)).all()
    files = files_of(connection, [row.job_id for row in there if row.length]) if kept.table is _payload else {}
    for row in there:
        result = _seal_row(connection, kept, row, kept.context(row, files), vault) + result
    return result


def _seal_row(connection: Connection, kept: Kept, row: Row[Any], context: bytes, vault: Vault) -> Step:
    try:
        new = _sealed_again(kept, row, context, vault)
    except Altered:
        return Step(altered=1)
    except NotEncrypted:
        return Step(unencrypted=1)
    except Unreadable as error:
        return Step(unreadable=Counter({error.key_name: 1}))
    this = [column == row._mapping[column] for column in kept.identity]
    values = {kept.column.name: new.data, kept.key.name: new.key_name}
    connection.execute(update(kept.table).where(*this).values(**values))
    return Step(sealed=1)


def _sealed_again(kept: Kept, row: Row[Any], context: bytes, vault: Vault) -> Sealed:
    data, key_name = row._mapping[kept.column], row._mapping[kept.key]
    if kept.tags:
        vault.verify(bytes(data or b""), key_name, context=context)
        return vault.tag(context)
    return vault.seal(vault.open(bytes(data), key_name, context=context), context=context)


def _others(kept: Kept, vault: Vault, after: tuple[Any, ...] | None) -> Any:
    """The identities and sizes of the next rows that another key or none has encrypted."""
    statement = (
        select(*kept.identity, func.coalesce(func.length(kept.column), 0).label("size"))
        .where(or_(kept.key.is_(None), kept.key != vault.seals_with), kept.there)
        .order_by(*kept.identity)
        .limit(STEP_ROWS)
    )
    return statement if after is None else statement.where(tuple_(*kept.identity) > after)


def _within_bytes(found: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """The first rows whose sizes add up to `STEP_BYTES`; at least one."""
    total = 0
    for place, row in enumerate(found):
        total += row.size
        if place and total > STEP_BYTES:
            return found[:place]
    return found


def still_with(connection: Connection) -> dict[str | None, int]:
    """How many rows each key has encrypted, by its name; None: rows that are not encrypted. Reads all rows."""
    total: Counter[str | None] = Counter()
    for kept in KEPT:
        counted = select(kept.key.label("name"), func.count().label("rows")).where(kept.there).group_by(kept.key)
        for row in connection.execute(counted):
            total[row.name] += row.rows
    return dict(total)
