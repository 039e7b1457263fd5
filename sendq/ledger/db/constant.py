"""Statements that never change, on the driver itself: what a worker runs for every job.

SQLAlchemy's share of such a statement (its cache key, its parameters, a result with metadata, rows) is as large as the
driver's and the server's together. So with psycopg the compiled text and its values go to a cursor of the driver's, in
the same transaction. Rows come as plain tuples. With any other driver, and where a listener to SQLAlchemy's statement
events is registered, the statement is executed as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.base import Executable


def rows(
    connection: Connection, statement: Executable, values: Mapping[str, Any], *, last: bool = False
) -> Sequence[tuple[Any, ...]]:
    """Execute a statement and return all of its rows.

    ``statement`` must be a constant of its module, or come from a cached function; ``values`` are its parameters.
    ``last``: this is the last statement of the transaction, which is not a caller's.
    """
    dialect = connection.dialect
    heard = (connection._has_events or connection.engine._has_events) and (
        connection.dispatch.before_cursor_execute or connection.dispatch.after_cursor_execute
    )
    if dialect.driver != "psycopg" or dialect.is_async or heard:
        result = connection.execute(statement, dict(values))
        return result.all() if result.returns_rows else []
    if not connection.in_transaction():
        connection.begin()  # or its commit would do nothing
    kind: Any = type(dialect)  # mypy takes its instances' __hash__ for its own
    text, defaults = _compiled(statement, kind)
    given = {**defaults, **values} if defaults else values
    cursor = None
    try:
        direct = getattr(connection.connection.driver_connection, "direct_rows", None)
        if direct is not None:
            return direct(text, given, last=last)  # type: ignore[no-any-return]
        cursor = connection.connection.cursor()
        cursor.execute(text, given)
        return cursor.fetchall() if cursor.pgresult.nfields else []
    except BaseException as error:
        is_foreign = isinstance(error, Exception) and not isinstance(error, dialect.loaded_dbapi.Error)
        if is_foreign:  # of a signal's handler, say
            raise
        # The same exceptions as from `Connection.execute`, and the same fate of a connection that broke.
        connection._handle_dbapi_exception(error, text, None, cursor, None)


@lru_cache(maxsize=1_000)
def _compiled(statement: Executable, kind: type[Dialect]) -> tuple[str, Mapping[str, Any]]:
    """The text of a statement, and the values that it has itself; all dialects of one class compile alike."""
    compiled = statement.compile(dialect=kind())  # type: ignore[attr-defined]
    own = {name: bound.effective_value for name, bound in compiled.binds.items() if not bound.required}
    return str(compiled), own
