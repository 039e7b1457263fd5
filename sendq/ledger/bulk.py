"""Many rows in one statement, on both databases.

PostgreSQL gets each column as one array (``INSERT … SELECT FROM unnest(…)``): one statement to plan, whatever the
number of rows, and no text that grows with it. SQLite runs in our own process, where a prepared statement for each
row is as cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, bindparam, insert, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import dialect as postgresql
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.elements import TextClause

Row = Mapping[str, Any]
T = TypeVar("T")

# Rows in one round trip: large enough that the trip no longer counts, small enough that memory stays flat.
CHUNK = 1_000


def chunks(rows: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The rows in lists of at most ``size``."""
    rest = iter(rows)
    while chunk := list(islice(rest, size)):
        yield chunk


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert ``rows``, which all have the same columns."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        connection.execute(_unnest_insert(table, columns, ""), _arrays(columns, rows))
    else:
        connection.execute(insert(table), [dict(row) for row in rows])


def insert_new(connection: Connection, table: Table, rows: Sequence[Row], returning: str) -> set[Any]:
    """Insert those of ``rows`` whose primary key is new, in their order; gives the ``returning`` column of these."""
    if not rows:
        return set()
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        ending = f"ON CONFLICT DO NOTHING RETURNING {returning}"
        statement = _unnest_insert(table, columns, ending).columns(**{returning: table.c[returning].type})
        return set(connection.execute(statement, _arrays(columns, rows)).scalars())
    statement_ = sqlite_insert(table).on_conflict_do_nothing().returning(table.c[returning])
    found: set[Any] = set()
    for row in rows:
        found.update(connection.execute(statement_, dict(row)).scalars())
    return found


def update_rows(connection: Connection, table: Table, rows: Sequence[Row], *, key: str = "id") -> None:
    """Set the columns of each row where ``key`` is its own; all rows have the same columns."""
    if not rows:
        return
    columns = tuple(sorted(rows[0]))
    if connection.dialect.name == "postgresql":
        connection.execute(_unnest_update(table, columns, key), _arrays(columns, rows))
    else:
        connection.execute(
            _plain_update(table, columns, key), [{f"v_{name}": row[name] for name in columns} for row in rows]
        )


def _arrays(columns: tuple[str, ...], rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in columns}


def _unnest(table: Table, columns: tuple[str, ...]) -> str:
    dialect = postgresql()  # type: ignore[no-untyped-call]
    return ", ".join(f"CAST(:{name} AS {table.c[name].type.compile(dialect)}[])" for name in columns)


def _with_types(statement: str, table: Table, columns: tuple[str, ...]) -> TextClause:
    return text(statement).bindparams(*(bindparam(name, type_=ARRAY(table.c[name].type)) for name in columns))


@lru_cache
def _unnest_insert(table: Table, columns: tuple[str, ...], ending: str) -> TextClause:
    statement = (
        f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT * FROM unnest({_unnest(table, columns)}) {ending}"  # noqa: S608
    )
    return _with_types(statement, table, columns)


@lru_cache
def _unnest_update(table: Table, columns: tuple[str, ...], key: str) -> TextClause:
    changes = ", ".join(f"{name} = v.{name}" for name in columns if name != key)
    statement = (
        f"UPDATE {table.name} AS t SET {changes} "  # noqa: S608
        f"FROM unnest({_unnest(table, columns)}) AS v ({', '.join(columns)}) WHERE t.{key} = v.{key}"
    )
    return _with_types(statement, table, columns)


@lru_cache
def _plain_update(table: Table, columns: tuple[str, ...], key: str) -> Update:
    changes: dict[str, Any] = {name: bindparam(f"v_{name}") for name in columns if name != key}
    return update(table).where(table.c[key] == bindparam(f"v_{key}")).values(changes)
