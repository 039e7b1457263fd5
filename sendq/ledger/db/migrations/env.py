"""What Alembic runs around the revisions: on a connection from `sendq.ledger.db.migrate`, or offline, to print the SQL.

The transaction belongs to the caller, so that the lock, the tables and the version are committed together. SQLite also
rolls table definitions back, although Alembic assumes that it does not.
"""

from __future__ import annotations

from typing import Any

from alembic import context

from sendq.alembic import include_object
from sendq.ledger.db.schema import VERSION_TABLE, metadata


def is_ours(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Whether a table is sendq's: the application's own tables, which may be in the same database, are ignored."""
    return not include_object(thing, name, kind, reflected, compare_to)


given = context.config.attributes
options: dict[str, Any] = {
    "target_metadata": metadata,
    "version_table": VERSION_TABLE,
    "transactional_ddl": True,
    "include_object": is_ours,
    "on_version_apply": given.get("on_version_apply", ()),
}
if context.is_offline_mode():
    context.configure(dialect_name=given["dialect"], literal_binds=True, **options)
else:
    context.configure(connection=given["connection"], **options)

with context.begin_transaction():
    context.run_migrations()
