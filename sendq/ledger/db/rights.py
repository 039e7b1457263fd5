"""Whether a database user may do what a worker does: tried, and rolled back."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, delete, insert, text, update

from sendq.clock import Micros
from sendq.ids import new_id
from sendq.ledger.db import schema
from sendq.ledger.db.engine import writing

_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE")

_MISSING = text("""
    SELECT DISTINCT name FROM unnest(CAST(:tables AS text[])) AS name, unnest(CAST(:rights AS text[])) AS needed
    WHERE NOT has_table_privilege(name, needed)
    UNION
    SELECT sequence FROM unnest(CAST(:numbered AS text[])) AS name,
        CAST(CAST(pg_get_serial_sequence(name, 'id') AS regclass) AS text) AS sequence
    WHERE NOT has_sequence_privilege(pg_get_serial_sequence(name, 'id'), 'USAGE')
    ORDER BY 1
""")


def try_writing(engine: Engine) -> list[str]:
    """Insert, change and delete a row, and roll back; the tables and sequences that this user may not use, if any.

    Raises:
        LedgerUnavailable: the ledger takes no writes, or not by this user; says why.
    """
    with writing(engine) as connection:
        refused = _refused(connection)
        if not refused:
            _write(connection, at=0)
        connection.rollback()
    return refused


def _write(connection: Connection, *, at: Micros) -> None:
    event = new_id()
    connection.execute(insert(schema.event), {"id": event, "at": at, "kind": "check", "by": "check"})
    connection.execute(update(schema.event).where(schema.event.c.id == event).values(at=at + 1))
    connection.execute(delete(schema.event).where(schema.event.c.id == event))


def _refused(connection: Connection) -> list[str]:
    if connection.dialect.name != "postgresql":
        return []
    tables = [table.name for table in schema.metadata.sorted_tables]
    numbered = [table.name for table in schema.metadata.sorted_tables if table.autoincrement_column is not None]
    values = {"tables": tables, "rights": list(_NEEDED), "numbered": numbered}
    return list(connection.execute(_MISSING, values).scalars())
