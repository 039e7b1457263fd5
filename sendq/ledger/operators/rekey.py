"""Rekey: encrypt everything in the ledger with the vault's first key, so that older keys can be removed.

In small steps, each one transaction, while workers and web applications keep running: a row is read and written under
its lock, so that its body and the name of its key always belong together for a reader. An interrupted rekey can be run
again: rows that already have the first key are skipped. Rows that no key decrypts are not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, func, or_, select, tuple_, update

from sendq.errors import Unreadable
from sendq.ledger.contents import chunk_context, piece_context
from sendq.ledger.db import schema
from sendq.ledger.enqueue import context_of_key
from sendq.ledger.secrets import secret_context
from sendq.vault import Vault, context_of

# Rows and bytes in one step: locks last milliseconds, and memory stays small.
STEP_ROWS = 500
STEP_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A table with an encrypted column, and the context that each of its rows is bound to (see `sendq.vault`)."""

    table: Table
    column: Column[Any]
    context: Callable[[Row[Any]], bytes]

    @property
    def identity(self) -> Sequence[Column[Any]]:
        """The primary key: rows are processed in its order."""
        return tuple(self.table.primary_key.columns)


# Every encrypted column.
KEPT = (
    Kept(schema.payload, schema.payload.c.body, lambda row: context_of("payload", row.job_id)),
    Kept(schema.batch, schema.batch.c.body, lambda row: context_of("batch", row.id)),
    Kept(schema.piece, schema.piece.c.after, lambda row: piece_context(row.job_id, row.position)),
    Kept(schema.chunk, schema.chunk.c.data, lambda row: chunk_context(row.content_id, row.position)),
    Kept(schema.key, schema.key.c.digest, lambda row: context_of_key(row.application, row.key)),
    Kept(schema.secret, schema.secret.c.value, lambda row: secret_context(row.name)),
)


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one step. ``after``: where the next one begins; None: the table is done."""

    sealed: int
    unreadable: Counter[str]  # rows by the name of the missing key
    after: tuple[Any, ...] | None


def step(connection: Connection, kept: Kept, vault: Vault, *, after: tuple[Any, ...] | None) -> Step:
    """Encrypt up to `STEP_ROWS` rows of one table after ``after`` that do not have the first key yet."""
    assert vault.seals_with is not None
    found = connection.execute(_others(kept, vault, after)).all()
    rows = _within_bytes(found)
    identity = tuple_(*kept.identity)
    wanted = [tuple(row)[:-1] for row in rows]
    full = select(kept.table).where(identity.in_(wanted)).order_by(*kept.identity).with_for_update()
    unreadable: Counter[str] = Counter()
    sealed = 0
    for row in connection.execute(full).all() if wanted else ():
        context = kept.context(row)
        try:
            opened = vault.open(bytes(row._mapping[kept.column]), row.cipher_key, context=context)
        except Unreadable as error:
            unreadable[error.key_name] += 1
            continue
        new = vault.seal(opened, context=context)
        this = [column == row._mapping[column] for column in kept.identity]
        values = {kept.column.name: new.data, "cipher_key": new.key_name}
        connection.execute(update(kept.table).where(*this).values(**values))
        sealed += 1
    done = len(rows) == len(found) < STEP_ROWS
    return Step(sealed, unreadable, None if done else wanted[-1])


def _others(kept: Kept, vault: Vault, after: tuple[Any, ...] | None) -> Any:
    """The identities and sizes of the next rows that another key or none has encrypted. Empty values need no key."""
    key = kept.table.c.cipher_key
    statement = (
        select(*kept.identity, func.length(kept.column).label("size"))
        .where(or_(key.is_(None), key != vault.seals_with), func.length(kept.column) > 0)
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
        key = kept.table.c.cipher_key
        counted = select(key, func.count().label("rows")).where(func.length(kept.column) > 0).group_by(key)
        for row in connection.execute(counted):
            total[row.cipher_key] += row.rows
    return dict(total)
