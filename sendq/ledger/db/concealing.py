"""Removes what was enqueued from the errors of a database, before they reach logs and error trackers.

On an engine of the application's own, SQLAlchemy quotes the parameters of a statement in its errors; servers and
drivers quote rows and values (``DETAIL: Failing row contains (…)``); and error trackers show the local variables of
every frame. What stays says what happened: the type, the SQLSTATE, the first line of the message, the statement, and
the places in the code.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import exc

# Attributes in which drivers keep further text of the server (asyncpg).
_QUOTING = ("detail", "hint", "context", "internal_query", "query")
# What PostgreSQL and asyncpg put before a value: "invalid input syntax for type json", "invalid input for query
# argument $3", "date/time field value out of range".
_before_a_value = re.compile(r"(.*?\b(?:invalid|malformed|out of range|unrecognized|cannot cast)\b[^:]*):.*")


def conceal(error: BaseException, *, outside: BaseException | None = None) -> None:
    """Remove addresses, subjects, bodies and all other parameters from ``error`` and those that led to it.

    ``outside``: the exception that the caller was handling before. It and those that led to it are not touched.
    """
    for one in list(_chain(error, outside)):
        if isinstance(one, exc.StatementError):
            one.hide_parameters = True
            one.params = None
        if one.args and isinstance(one.args[0], str):
            one.args = (_without_values(one.args[0]), *(arg for arg in one.args[1:] if isinstance(arg, int)))
        for name in _QUOTING:
            if isinstance(getattr(one, name, None), str):
                with suppress(AttributeError):  # read-only, and not shown
                    setattr(one, name, None)
        # Of the frames that have ended. Those that still run are the application's, and ours that show no content.
        traceback.clear_frames(one.__traceback__)


def _chain(error: BaseException, outside: BaseException | None) -> Iterator[BaseException]:
    """``error``, what SQLAlchemy wraps in it, its causes and contexts; each once."""
    waiting: list[BaseException | None] = [error]
    seen = {id(outside)}
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "orig", None)]


def _without_values(message: str) -> str:
    first_line = next(iter(message.strip().splitlines()), "")
    return _before_a_value.sub(r"\1", first_line)
