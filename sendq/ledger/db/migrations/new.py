"""Write the next revision: the difference between `sendq.ledger.db.schema` and the existing revisions.

    python -m sendq.ledger.db.migrations.new "what changed"

The existing revisions are run on an in-memory SQLite database, Alembic compares it with the tables of the schema, and
the difference becomes ``versions/NNNN_what_changed.py``, or ``NNNN.M_…`` if it only adds (see
`sendq.ledger.db.migrate`; a column that changes its meaning is not an addition, and is numbered by hand). Read it
before you commit it: Alembic detects tables, columns, types and indexes, but not a changed condition of a partial
index, nor data that must be migrated. The tests compare the result with the schema on both databases, conditions
included. Format the file with ``./dev format``.

Before the first release (and never after it) the first revision may be regenerated: delete ``versions/0001_*.py``
and run ``python -m sendq.ledger.db.migrations.new "the ledger"``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from alembic import command
from alembic.operations import ops

from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine, writing
from sendq.ledger.db.schema import leader

# A lease is taken over by updating its row, so the row must exist: it has no holder, and has expired.
FIRST_LEADER = (
    "INSERT INTO sendq_leader (name, holder, fence, expires_at, sleeps_until) VALUES ('dispatcher', NULL, 0, 0, 0)"
)


def write(message: str) -> str:
    """Write the next revision.

    Args:
        message: what changed, in a few words; it becomes the file's docstring and name.

    Returns:
        The path of the new file.

    Raises:
        ValueError: the schema does not differ from the revisions.
    """
    engine = open_engine("sqlite://")
    migrate.upgrade(engine)
    with writing(engine) as connection:
        config = migrate.config(connection=connection)
        made = command.revision(config, message, autogenerate=True, process_revision_directives=_complete)
    engine.dispose()
    if made is None or isinstance(made, list):
        raise ValueError("the revisions already make every table of the schema; there is nothing to write")
    return str(made.path)


def _complete(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """Add the rows that a new table starts with; write no file for an empty difference."""
    script = directives[0]
    steps = script.upgrade_ops
    script.rev_id = following(migrate.wanted(), additive=all(map(_adds, steps.ops)))
    if steps.is_empty():
        directives.clear()
        return
    if any(isinstance(step, ops.CreateTableOp) and step.table_name == leader.name for step in steps.ops):
        steps.ops.append(ops.ExecuteSQLOp(FIRST_LEADER))


def following(last: str, *, additive: bool) -> str:
    """The revision after ``last`` (the empty string: none exists): the number after the dot grows if it only adds."""
    number, _, step = last.partition(".")
    if additive and last:
        return f"{number}.{int(step or 0) + 1}"
    return f"{int(number or 0) + 1:04}"


def _adds(step: ops.MigrateOperation) -> bool:
    """Whether code that does not know this change still works."""
    match step:
        case ops.ModifyTableOps():
            return all(map(_adds, step.ops))
        case ops.AddColumnOp():
            return bool(step.column.nullable or step.column.server_default is not None)
        case ops.CreateIndexOp():
            return not step.unique
        case _:
            return isinstance(step, ops.CreateTableOp)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 2 when there is nothing to write."""
    parser = argparse.ArgumentParser(
        prog="python -m sendq.ledger.db.migrations.new", description="Write the next revision."
    )
    parser.add_argument("message", help="what changed, in a few words")
    try:
        write(parser.parse_args(arguments).message)  # Alembic prints where
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
