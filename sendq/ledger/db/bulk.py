"""Many rows in one statement, on both databases.

PostgreSQL gets each column as one array (``INSERT … SELECT FROM unnest(…)``): one statement to plan, whose text does
not grow with the number of rows. A column with the same value in all rows is sent once: that is two thirds of the
values in a group of outcomes. SQLite runs in our own process, where one prepared statement per row is as cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Connection, Table, any_, bindparam, insert, literal, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import dialect as postgresql
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.selectable import TextualSelect

from sendq.ledger.db import constant

Row = Mapping[str, Any]
T = TypeVar("T")

_POSTGRESQL = postgresql()  # type: ignore[no-untyped-call]

# Rows per round trip: large enough that the trip does not matter, small enough that memory stays flat.
CHUNK = 1_000


def chunks(rows: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The rows in lists of at most ``size``."""
    rest = iter(rows)
    while chunk := list(islice(rest, size)):
        yield chunk


def one_of(connection: Connection, column: Column[UUID], ids: Sequence[UUID]) -> ColumnElement[bool]:
    """``column IN (…)``, as one array on PostgreSQL, because SQLAlchemy renders a list again for each statement."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(ids, ARRAY(column.type)))
    return column.in_(ids)


def one_of_given(dialect: str, column: Column[UUID]) -> ColumnElement[bool]:
    """`one_of` for a statement that is a constant; its parameter is ``ids``."""
    if dialect == "postgresql":
        return column == any_(bindparam("ids", type_=ARRAY(column.type)))
    return column.in_(bindparam("ids", expanding=True, type_=column.type))


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert ``rows``, which all have the same columns."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        own, values = _said_once(columns, rows)
        constant.rows(connection, _unnest_insert(table, columns, own, ""), values)
    else:
        connection.execute(insert(table), [dict(row) for row in rows])


def insert_new(connection: Connection, table: Table, rows: Sequence[Row], returning: str) -> set[Any]:
    """Insert the ``rows`` whose primary key is new, in order. Returns their values of the column ``returning``."""
    if not rows:
        return set()
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        own, values = _said_once(columns, rows)
        return {row[0] for row in constant.rows(connection, _insert_new(table, columns, own, returning), values)}
    statement_ = sqlite_insert(table).on_conflict_do_nothing().returning(table.c[returning])
    found: set[Any] = set()
    for row in rows:
        found.update(connection.execute(statement_, dict(row)).scalars())
    return found


def update_rows(connection: Connection, table: Table, rows: Sequence[Row], *, key: str = "id") -> None:
    """Update the stored row with the same ``key`` as each of ``rows``; all of them have the same columns."""
    if not rows:
        return
    columns = tuple(sorted(rows[0]))
    if connection.dialect.name == "postgresql":
        own, values = _said_once(columns, rows)
        constant.rows(connection, _unnest_update(table, columns, own, key), values)
    else:
        connection.execute(
            _plain_update(table, columns, key), [{f"v_{name}": row[name] for name in columns} for row in rows]
        )


def _said_once(columns: tuple[str, ...], rows: Sequence[Row]) -> tuple[frozenset[str], dict[str, Any]]:
    """The columns whose values differ between rows, and the values to bind: a list for those, one for each other."""
    own = set()
    values: dict[str, Any] = {}
    for name in columns:
        column = [row[name] for row in rows]
        # First and last are compared first: if values differ, these two nearly always do.
        if column[-1] == column[0] and column.count(column[0]) == len(column):
            values[name] = column[0]
        else:
            own.add(name)
            values[name] = column
    if not own:  # at least one array is needed for the number of rows
        own.add(columns[0])
        values[columns[0]] = [values[columns[0]]] * len(rows)
    return frozenset(own), values


def _typed(table: Table, name: str, own: frozenset[str]) -> str:
    kind = table.c[name].type.compile(_POSTGRESQL)
    return f"CAST(:{name} AS {kind}{'[]' if name in own else ''})"


def _unnest(table: Table, columns: tuple[str, ...], own: frozenset[str]) -> str:
    names = [name for name in columns if name in own]
    return f"unnest({', '.join(_typed(table, name, own) for name in names)}) AS v ({', '.join(names)})"


def _value(table: Table, name: str, own: frozenset[str]) -> str:
    return f"v.{name}" if name in own else _typed(table, name, own)


def _with_types(statement: str, table: Table, columns: tuple[str, ...], own: frozenset[str]) -> TextClause:
    types = {name: ARRAY(table.c[name].type) if name in own else table.c[name].type for name in columns}
    return text(statement).bindparams(*(bindparam(name, type_=kind) for name, kind in types.items()))


@lru_cache(maxsize=512)
def _unnest_insert(table: Table, columns: tuple[str, ...], own: frozenset[str], ending: str) -> TextClause:
    values = ", ".join(_value(table, name, own) for name in columns)
    statement = (
        f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {values} FROM {_unnest(table, columns, own)} {ending}"  # noqa: S608
    )
    return _with_types(statement, table, columns, own)


@lru_cache(maxsize=512)
def _insert_new(table: Table, columns: tuple[str, ...], own: frozenset[str], returning: str) -> TextualSelect:
    statement = _unnest_insert(table, columns, own, f"ON CONFLICT DO NOTHING RETURNING {returning}")
    return statement.columns(**{returning: table.c[returning].type})


@lru_cache(maxsize=512)
def _unnest_update(table: Table, columns: tuple[str, ...], own: frozenset[str], key: str) -> TextClause:
    changes = ", ".join(f"{name} = {_value(table, name, own)}" for name in columns if name != key)
    statement = (
        f"UPDATE {table.name} AS t SET {changes} "  # noqa: S608
        f"FROM {_unnest(table, columns, own)} WHERE t.{key} = {_value(table, key, own)}"
    )
    return _with_types(statement, table, columns, own)


@lru_cache
def _plain_update(table: Table, columns: tuple[str, ...], key: str) -> Update:
    changes: dict[str, Any] = {name: bindparam(f"v_{name}") for name in columns if name != key}
    return update(table).where(table.c[key] == bindparam(f"v_{key}")).values(changes)
