"""What Alembic runs around the revisions: on a connection that `sendq.ledger.db.migrate` hands over, or on paper.

The transaction belongs to the caller, so that the lock, the tables and the version are committed as one. SQLite, too,
takes table definitions back with the transaction, whatever Alembic assumes of it.
"""

from __future__ import annotations

from typing import Any

from alembic import context

from sendq.alembic import include_object
from sendq.ledger.db.schema import VERSION_TABLE, metadata


def is_ours(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """The application's own tables, which may live in the same database, are none of our business."""
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
