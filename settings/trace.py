"""Exceptions as a log and a report may hold them: where and of which kind, without their words.

A library's exception quotes what it was given: a driver the row, a parser the text, a client the address. Those of this
code name fields and carry ids, so their words stay, and so do an SQL state and an operating system's own sentence.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

NOT_SHOWN = "(its words are not shown: they may quote somebody's mail)"

OURS = ("sendq", "settings", "tasks", "worker")

_BECAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_WHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"


def trace(error: BaseException) -> str:
    """What ``traceback.format_exception`` gives, with `words` in place of each exception's own."""
    return "".join(_parts(error, set())).rstrip("\n")


def words(error: BaseException) -> str:
    """What may be said of an exception beside its kind."""
    if is_ours(type(error).__module__):
        return str(error)
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    if state is not None:
        return f"SQL state {state}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return NOT_SHOWN


def is_ours(module: str | None) -> bool:
    """Whether what is defined in ``module`` keeps our rule about words."""
    return module is not None and module.partition(".")[0] in OURS


def _parts(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _parts(before, seen)
        yield _BECAUSE if error.__cause__ is not None else _WHILE
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    yield f"{name}: {words(error)}\n"
