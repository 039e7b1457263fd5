"""Rows for SQLite, handed to the driver as tuples.

SQLAlchemy would construct a statement for each call, and a dict of converted parameters for each row: together that
takes longer than SQLite does. Here each column is converted at once, for a statement that was compiled before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Table
from sqlalchemy.dialects.sqlite import dialect, insert

SQLITE = dialect()

Converter = Callable[[Any], Any] | None


def insert_tuples(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    or_nothing: bool = False,
    returning: str | None = None,
) -> CursorResult[Any]:
    """Insert rows, which all have the same columns. ``or_nothing``: skip those whose primary key is taken.

    ``returning``: the result has the value of this column, if it is a single row and was inserted.
    """
    columns = tuple(rows[0])
    text, order, converters = _compiled(table, columns, or_nothing, returning)
    values = [
        [row[name] for row in rows] if convert is None else [convert(row[name]) for row in rows]
        for name, convert in zip(order, converters, strict=True)
    ]
    tuples = list(zip(*values, strict=True))
    return connection.exec_driver_sql(text, tuples if len(tuples) > 1 else tuples[0])


@lru_cache(maxsize=512)
def _compiled(
    table: Table, columns: tuple[str, ...], or_nothing: bool, returning: str | None
) -> tuple[str, Sequence[str], Sequence[Converter]]:
    """The text of an INSERT, its parameters in order, and how each is converted."""
    statement: Any = insert(table)
    if or_nothing:
        statement = statement.on_conflict_do_nothing()
    if returning is not None:
        statement = statement.returning(table.c[returning])
    compiled = statement.compile(dialect=SQLITE, column_keys=list(columns))
    order = tuple(compiled.positiontup)
    kinds = [table.c[name].type.dialect_impl(SQLITE) for name in order]
    return str(compiled), order, tuple(kind.bind_processor(SQLITE) for kind in kinds)
