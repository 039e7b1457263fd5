"""Many rows in one statement, on both databases.

PostgreSQL gets each column as one array (``INSERT … SELECT FROM unnest(…)``): one statement to plan, whose text does
not grow with the number of rows. A column with the same value in all rows is sent once: that is two thirds of the
values in a group of outcomes. SQLite runs in our own process, where one prepared statement per row is as cheap
(`sendq.ledger.db.driver_rows`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnClause, ColumnElement, Connection, Table, any_, bindparam, literal, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import dialect as postgresql
from sqlalchemy.sql.dml import Update
from sqlalchemy.sql.elements import BindParameter, TextClause
from sqlalchemy.sql.selectable import TextualSelect

from sendq.ledger.db import constant
from sendq.ledger.db.driver_rows import insert_tuples

Row = Mapping[str, Any]
T = TypeVar("T")

POSTGRESQL = postgresql()  # type: ignore[no-untyped-call]

# Rows per round trip: large enough that the trip does not matter, small enough that memory stays flat.
CHUNK = 1_000

_NO_COLUMN = frozenset[str]()

# Rows from which on SQLite inserts them together before it tries them one by one.
MANY = 50


def chunks(rows: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The rows in lists of at most ``size``."""
    rest = iter(rows)
    while chunk := list(islice(rest, size)):
        yield chunk


def one_of(connection: Connection, column: Column[T], ids: Sequence[T]) -> ColumnElement[bool]:
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
        own, values = _to_insert(columns, rows)
        constant.rows(connection, _unnest_insert(table, columns, own, ""), values)
    else:
        insert_tuples(connection, table, rows)


def insert_together(
    connection: Connection,
    parts: Sequence[tuple[Table, Sequence[Row]]],
    then: str = "",
    *,
    last: bool = False,
    **given: Any,
) -> None:
    """Insert rows into several tables. On PostgreSQL this is one statement, whose last part is the query ``then``.

    ``given``: the parameters of ``then``. ``last``: as for `constant.rows`.
    """
    parts = [(table, rows) for table, rows in parts if rows]
    if connection.dialect.name != "postgresql":
        for table, rows in parts:
            insert_rows(connection, table, rows)
        return
    if not parts:
        return
    inserts, parameters = _of_parts(parts, given)
    constant.rows(connection, _insert_together(inserts, then or "SELECT 1"), parameters, last=last)


def insert_together_if_new(
    connection: Connection,
    new: tuple[Table, Row],
    parts: Sequence[tuple[Table, Sequence[Row]]],
    then: str,
    *,
    last: bool,
    **given: Any,
) -> bool:
    """PostgreSQL: insert a row, and those of ``parts`` if its primary key was new; returns whether it was.

    The statement ends with ``then``, which must have a row for that of ``fresh``. ``given``, ``last``: as in
    `insert_together`.
    """
    table, row = new
    inserts, parameters = _of_parts([(table, [row]), *((table, rows) for table, rows in parts if rows)], given)
    return bool(constant.rows(connection, _insert_together(inserts, then, if_new=True), parameters, last=last))


def insert_new(connection: Connection, table: Table, rows: Sequence[Row], returning: str) -> set[Any]:
    """Insert the ``rows`` whose primary key is new, in order. Returns their values of the column ``returning``."""
    if not rows:
        return set()
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        own, values = _to_insert(columns, rows)
        return {row[0] for row in constant.rows(connection, _insert_new(table, columns, own, returning), values)}
    if len(rows) >= MANY and _all_new(connection, table, rows):
        return {row[returning] for row in rows}
    found: set[Any] = set()
    for row in rows:
        if insert_tuples(connection, table, [row], or_nothing=True, returning=returning).all():
            found.add(row[returning])
    return found


class Then(NamedTuple):
    """A query, or another write, that is part of a statement which writes rows. It does not see what that writes: all
    parts of a statement see the tables as they were before it.

    ``before``: a common table expression that precedes the write. ``where``: a condition of an insert.
    """

    text: str
    parameters: tuple[BindParameter[Any], ...]
    columns: tuple[ColumnClause[Any], ...]
    before: str = ""
    where: str = ""

    def after(self, write: str) -> str:
        """The whole statement."""
        return f"WITH {self.before + ', ' if self.before else ''}{write} {self.text}"


class Computed(NamedTuple):
    """How an update computes columns from what it reads for each of its rows, on PostgreSQL.

    ``read``: named expressions, to which ``v`` is a row as it is given. ``changes``: columns, and expressions to which
    ``v`` also has what was read. ``given``: the columns of which they need each row's value.
    """

    read: str
    changes: tuple[tuple[str, str], ...]
    given: frozenset[str]
    parameters: tuple[BindParameter[Any], ...]
    returning: tuple[ColumnClause[Any], ...]


def insert_new_then(
    connection: Connection, table: Table, rows: Sequence[Row], then: Then, given: Mapping[str, Any]
) -> Sequence[tuple[Any, ...]]:
    """PostgreSQL: insert the ``rows`` whose ``id`` is new, and execute a query in the same statement: its rows.

    The query finds the ids of the new rows in ``fresh``. ``given``: its parameters, not named as columns are.
    """
    columns = tuple(rows[0])
    own, values = _to_insert(columns, rows)
    return constant.rows(connection, _insert_new_then(table, columns, own, then), {**values, **given})


def _all_new(connection: Connection, table: Table, rows: Sequence[Row]) -> bool:
    """Insert all rows at once, or none if one of them is not new. SQLite returns rows of single statements only."""
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:  # a savepoint would be the transaction
        return False
    with connection.begin_nested() as step:
        done = insert_tuples(connection, table, rows, or_nothing=True)
        if done.rowcount == len(rows):
            return True
        step.rollback()
    return False


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


def update_rows_then(
    connection: Connection, table: Table, rows: Sequence[Row], then: Then, given: Mapping[str, Any]
) -> Sequence[tuple[Any, ...]]:
    """PostgreSQL: `update_rows`, and execute a query in the same statement: its rows.

    ``given``: its parameters, whose names are not those of columns.
    """
    columns = tuple(sorted(rows[0]))
    own, values = _said_once(columns, rows)
    return constant.rows(connection, _unnest_update_then(table, columns, own, then), {**values, **given})


def then_update(table: Table, rows: Sequence[Row], computed: Computed) -> tuple[Then, dict[str, Any]]:
    """PostgreSQL: `update_rows` with columns that it computes, as a `Then`, and its parameters."""
    columns = tuple(sorted(rows[0]))
    own, values = _said_once(columns, rows, always=computed.given)
    return _then_update(table, columns, own, computed), {f"{_THEN}{name}": value for name, value in values.items()}


def execute_alone(connection: Connection, then: Then, given: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
    """Execute a `Then` as a statement: its rows."""
    return constant.rows(connection, _alone(then), given)


_Inserts = tuple[tuple[Table, tuple[str, ...], frozenset[str]], ...]


def _of_parts(
    parts: Sequence[tuple[Table, Sequence[Row]]], given: Mapping[str, Any]
) -> tuple[_Inserts, dict[str, Any]]:
    """The inserts of one statement, and the values to bind."""
    inserts, parameters = [], dict(given)
    for number, (table, rows) in enumerate(parts):
        columns = tuple(rows[0])
        own, values = _to_insert(columns, rows)
        inserts.append((table, columns, own))
        prefix = _prefix(number)
        for name, value in values.items():
            parameters[prefix + name] = value
    return tuple(inserts), parameters


def _to_insert(columns: tuple[str, ...], rows: Sequence[Row]) -> tuple[frozenset[str], Row]:
    """`_said_once` for an insert, which needs no array for a single row."""
    return (_NO_COLUMN, rows[0]) if len(rows) == 1 else _said_once(columns, rows)


def _said_once(
    columns: tuple[str, ...], rows: Sequence[Row], *, always: frozenset[str] = frozenset()
) -> tuple[frozenset[str], dict[str, Any]]:
    """The columns whose values differ between rows, and the values to bind: a list for those, one for each other.

    ``always``: columns that get a list in any case.
    """
    if len(rows) == 1:  # at least one array is needed for the number of rows
        (row,) = rows
        lists = always or _first(columns)
        return lists, {**row, **{name: [row[name]] for name in lists}}
    own = set(always)
    values: dict[str, Any] = {}
    for name in columns:
        column = [row[name] for row in rows]
        # First and last are compared first: if values differ, these two nearly always do.
        if name not in always and column[-1] == column[0] and column.count(column[0]) == len(column):
            values[name] = column[0]
        else:
            own.add(name)
            values[name] = column
    if not own:  # at least one array is needed for the number of rows
        own.add(columns[0])
        values[columns[0]] = [values[columns[0]]] * len(rows)
    return frozenset(own), values


@lru_cache(maxsize=512)
def _first(columns: tuple[str, ...]) -> frozenset[str]:
    return frozenset(columns[:1])


# Of the parameters of a write that is part of another one.
_THEN = "then_"


def _prefix(number: int) -> str:
    """Of the parameters of one of several inserts."""
    return f"i{number}_"


def _typed(table: Table, name: str, own: frozenset[str], prefix: str = "") -> str:
    kind = table.c[name].type.compile(POSTGRESQL)
    return f"CAST(:{prefix}{name} AS {kind}{'[]' if name in own else ''})"


def _unnest(table: Table, columns: tuple[str, ...], own: frozenset[str], prefix: str = "") -> str:
    names = [name for name in columns if name in own]
    return f"unnest({', '.join(_typed(table, name, own, prefix) for name in names)}) AS v ({', '.join(names)})"


def _value(table: Table, name: str, own: frozenset[str], prefix: str = "") -> str:
    return f"v.{name}" if name in own else _typed(table, name, own, prefix)


def _types(table: Table, columns: tuple[str, ...], own: frozenset[str], prefix: str = "") -> list[BindParameter[Any]]:
    kinds = {name: ARRAY(table.c[name].type) if name in own else table.c[name].type for name in columns}
    return [bindparam(f"{prefix}{name}", type_=kind) for name, kind in kinds.items()]


def _insert(table: Table, columns: tuple[str, ...], own: frozenset[str], prefix: str = "") -> str:
    values = ", ".join(_value(table, name, own, prefix) for name in columns)
    rows = f" FROM {_unnest(table, columns, own, prefix)}" if own else ""
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {values}{rows}"


@lru_cache(maxsize=512)
def _unnest_insert(table: Table, columns: tuple[str, ...], own: frozenset[str], ending: str) -> TextClause:
    return text(f"{_insert(table, columns, own)} {ending}").bindparams(*_types(table, columns, own))


@lru_cache(maxsize=512)
def _insert_together(inserts: _Inserts, then: str, *, if_new: bool = False) -> TextClause:
    """``if_new``: all but the first insert depend on whether that has inserted its row."""
    named, types = [], []
    for number, (table, columns, own) in enumerate(inserts):
        prefix = _prefix(number)
        insert = _insert(table, columns, own, prefix)
        if not if_new:
            named.append(f"{prefix} AS ({insert})")
        elif not named:
            named.append(f"fresh AS ({insert} ON CONFLICT DO NOTHING RETURNING 1)")
        else:
            named.append(f"{prefix} AS ({insert} WHERE EXISTS (SELECT FROM fresh))")
        types += _types(table, columns, own, prefix)
    return text(f"WITH {', '.join(named)} {then}").bindparams(*types)


@lru_cache(maxsize=512)
def _insert_new(table: Table, columns: tuple[str, ...], own: frozenset[str], returning: str) -> TextualSelect:
    statement = _unnest_insert(table, columns, own, f"ON CONFLICT DO NOTHING RETURNING {returning}")
    return statement.columns(**{returning: table.c[returning].type})


@lru_cache(maxsize=512)
def _insert_new_then(table: Table, columns: tuple[str, ...], own: frozenset[str], then: Then) -> TextualSelect:
    where = f" WHERE {then.where}" if then.where else ""
    new = f"{_insert(table, columns, own)}{where} ON CONFLICT DO NOTHING RETURNING id"
    statement = text(then.after(f"fresh AS ({new})")).bindparams(*_types(table, columns, own), *then.parameters)
    return statement.columns(*then.columns)


def _update(table: Table, columns: tuple[str, ...], own: frozenset[str], key: str) -> str:
    changes = ", ".join(f"{name} = {_value(table, name, own)}" for name in columns if name != key)
    return (
        f"UPDATE {table.name} AS t SET {changes} "  # noqa: S608
        f"FROM {_unnest(table, columns, own)} WHERE t.{key} = {_value(table, key, own)}"
    )


@lru_cache(maxsize=512)
def _unnest_update(table: Table, columns: tuple[str, ...], own: frozenset[str], key: str) -> TextClause:
    return text(_update(table, columns, own, key)).bindparams(*_types(table, columns, own))


@lru_cache(maxsize=512)
def _unnest_update_then(table: Table, columns: tuple[str, ...], own: frozenset[str], then: Then) -> TextualSelect:
    statement = text(then.after(f"written AS ({_update(table, columns, own, 'id')})"))
    return statement.bindparams(*_types(table, columns, own), *then.parameters).columns(*then.columns)


@lru_cache(maxsize=512)
def _then_update(table: Table, columns: tuple[str, ...], own: frozenset[str], computed: Computed) -> Then:
    values = {name: _value(table, name, own, _THEN) for name in columns if name != "id"} | dict(computed.changes)
    changes = ", ".join(f"{name} = {value}" for name, value in values.items())
    # OFFSET 0, or what is read would be read again wherever it is used.
    rows = f"(SELECT v.*, {computed.read} FROM {_unnest(table, columns, own, _THEN)} OFFSET 0) AS v"  # noqa: S608
    returning = ", ".join(f"t.{column.name}" for column in computed.returning)
    return Then(
        f"UPDATE {table.name} AS t SET {changes} FROM {rows} WHERE t.id = v.id RETURNING {returning}",  # noqa: S608
        (*_types(table, columns, own, _THEN), *computed.parameters),
        computed.returning,
    )


@lru_cache(maxsize=512)
def _alone(then: Then) -> TextualSelect:
    return text(then.text).bindparams(*then.parameters).columns(*then.columns)


@lru_cache
def _plain_update(table: Table, columns: tuple[str, ...], key: str) -> Update:
    changes: dict[str, Any] = {name: bindparam(f"v_{name}") for name in columns if name != key}
    return update(table).where(table.c[key] == bindparam(f"v_{key}")).values(changes)
