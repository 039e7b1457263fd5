"""An act of many transactions that yields its progress."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

P = TypeVar("P")


class Run(Generic[P]):
    """An act being carried out: iterate over it, or call `finish`.

    Each item is the progress after one more transaction, counted from the beginning; the last one is the result.
    Nothing happens before the first item is requested. If a caller stops early, what was done is kept, and the act may
    be run again.
    """

    def __init__(self, parts: Iterator[P]) -> None:
        self._parts = parts
        self._last: P | None = None

    def __iter__(self) -> Iterator[P]:
        return self

    def __next__(self) -> P:
        self._last = next(self._parts)
        return self._last

    def finish(self) -> P:
        """Run the act to its end; returns the result."""
        for _ in self:
            pass
        assert self._last is not None, "an act has at least one part"
        return self._last
