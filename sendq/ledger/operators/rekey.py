"""Rekey: seal everything that the ledger keeps anew, under the vault's first key, so that older keys can be removed.

In small steps, each a transaction of its own, while workers and web applications go on: a row is read and written under
its lock, and whoever reads it meanwhile finds body and key's name of one moment together. What was interrupted goes on
when it is run again, for a row that has the first key already is passed over. What no key opens stays as it is.
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
from sendq.vault import Vault, context_of

# Rows and bytes in one step: milliseconds under lock, and little memory.
STEP_ROWS = 500
STEP_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A table with something sealed in it: the column, and what each row belongs to (see `sendq.vault`)."""

    table: Table
    column: Column[Any]
    context: Callable[[Row[Any]], bytes]

    @property
    def identity(self) -> Sequence[Column[Any]]:
        """The primary key, in whose order the rows are gone through."""
        return tuple(self.table.primary_key.columns)


# Everything that is ever sealed.
KEPT = (
    Kept(schema.payload, schema.payload.c.body, lambda row: context_of("payload", row.job_id)),
    Kept(schema.batch, schema.batch.c.body, lambda row: context_of("batch", row.id)),
    Kept(schema.piece, schema.piece.c.after, lambda row: piece_context(row.job_id, row.position)),
    Kept(schema.chunk, schema.chunk.c.data, lambda row: chunk_context(row.content_id, row.position)),
    Kept(schema.key, schema.key.c.digest, lambda row: context_of_key(row.application, row.key)),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. ``after``: where the next one begins; None: the table is done."""

    sealed: int
    unreadable: Counter[str]  # rows by the name of the key that is not at hand
    after: tuple[Any, ...] | None


def step(connection: Connection, kept: Kept, vault: Vault, *, after: tuple[Any, ...] | None) -> Step:
    """Seal up to `STEP_ROWS` rows behind ``after`` anew, those of one table that do not have the first key yet."""
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
    """The identities and sizes of the next rows that the first key did not seal. What is empty hides nothing."""
    key = kept.table.c.cipher_key
    statement = (
        select(*kept.identity, func.length(kept.column).label("size"))
        .where(or_(key.is_(None), key != vault.seals_with), func.length(kept.column) > 0)
        .order_by(*kept.identity)
        .limit(STEP_ROWS)
    )
    return statement if after is None else statement.where(tuple_(*kept.identity) > after)


def _within_bytes(found: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """The first rows whose sizes add up to `STEP_BYTES`; one at least."""
    total = 0
    for place, row in enumerate(found):
        total += row.size
        if place and total > STEP_BYTES:
            return found[:place]
    return found


def still_with(connection: Connection) -> dict[str | None, int]:
    """How many rows each key has sealed, by its name; None: those that are not sealed. Reads all of them."""
    total: Counter[str | None] = Counter()
    for kept in KEPT:
        key = kept.table.c.cipher_key
        counted = select(key, func.count().label("rows")).where(func.length(kept.column) > 0).group_by(key)
        for row in connection.execute(counted):
            total[row.cipher_key] += row.rows
    return dict(total)
