"""Exceptions for logs and reports: traceback and type, without their text.

A library's exception may quote its input: a driver the row, a parser the text, a client the address. Exceptions of this
code name fields and ids only, so their text is kept, and so are an SQL state and the operating system's message.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

NOT_SHOWN = "(text withheld: it may quote a message)"

OURS = ("sendq", "settings", "tasks", "worker")

_BECAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_WHILE = "\nDuring handling of the above exception, another exception occurred:\n\n"


def trace(error: BaseException) -> str:
    """Like ``traceback.format_exception``, with `words` in place of each exception's text."""
    return "".join(_parts(error, set())).rstrip("\n")


def words(error: BaseException) -> str:
    """The part of an exception's text that may be shown."""
    if is_ours(type(error).__module__):
        return str(error)
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    if state is not None:
        return f"SQL state {state}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return NOT_SHOWN


def is_ours(module: str | None) -> bool:
    """Whether ``module`` is part of this code, whose exceptions contain no message content."""
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
