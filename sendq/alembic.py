"""Filters with which the application's Alembic ignores sendq's tables.

If the ledger is in the application's database, ``alembic revision --autogenerate`` finds tables that are not in the
application's models, and proposes to drop them. In the application's ``env.py``::

    import sendq.alembic

    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=sendq.alembic.include_name,      # the tables are not even read
        include_object=sendq.alembic.include_object,  # the same for tables that a target_metadata holds
    )

To combine it with your own filter::

    def include_name(name, type_, parent_names):
        return sendq.alembic.include_name(name, type_, parent_names) and name not in MY_OWN

All names that begin with ``sendq_`` are filtered, so a newer release with more tables needs no newer filter.
"""

from __future__ import annotations

from typing import Any

PREFIX = "sendq_"


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """Whether the application's Alembic may read this name from the database; Alembic's ``include_name``.

    Args:
        name: of the table, column, index …; None stands for the default schema.
        type_: ``schema``, ``table``, ``column``, ``index``, ``unique_constraint`` or ``foreign_key_constraint``.
        parent_names: for what belongs to a table, its name under ``table_name``.
    """
    table = name if type_ == "table" else parent_names.get("table_name")
    return not (table or "").startswith(PREFIX)


def include_object(object_: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Whether the application's Alembic may compare this object; Alembic's ``include_object``.

    Args:
        object_: the table, or the column, index or constraint with its ``table``.
        name: of the object.
        type_: ``table``, ``column``, ``index``, ``unique_constraint`` or ``foreign_key_constraint``.
        reflected: true when it was read from the database, false when it comes from the target metadata.
        compare_to: its counterpart on the other side, if there is one.
    """
    table = name if type_ == "table" else getattr(getattr(object_, "table", None), "name", None)
    return not (table or "").startswith(PREFIX)
