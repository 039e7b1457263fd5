"""Spreading the due times of many messages over a time, evenly and with jitter. Pure: chance is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from sendq.clock import Micros
from sendq.rules.windows import Span, Window, first_opening

# Of the golden ratio: its multiples, without their whole parts, fill the time from 0 to 1 evenly.
_GOLDEN = 0.618_033_988_749_894_9


@lru_cache(maxsize=1024)
def spread_over(window: Window | None, begin: Micros, length: Micros) -> tuple[Span, ...]:
    """The times of a spread: from ``begin``, or the first opening after it, for ``length``, without closed times."""
    if window is None:
        return ((begin, begin + length),)
    first = first_opening(window, begin)
    return () if first is None else tuple(window.spans(first, first + length))


def fraction(position: int, number: int | None, offset: float, chance: Callable[[], float]) -> float:
    """Where in a spread (0 to 1, excluded) the message at a position is due.

    Of a known ``number`` each has its own part of the time, in their order, and is due at any moment of it. If their
    number is not known yet, they are in no order; ``offset`` (0 to 1): where the first is due.
    """
    if number is not None:
        return (position + chance()) / number
    return (offset + position * _GOLDEN + (chance() - 0.5) / (position + 1)) % 1.0


def place_in(spans: Sequence[Span], where: float) -> Micros:
    """The time after this fraction of the spans."""
    offset = int(sum(end - begin for begin, end in spans) * where)
    for begin, end in spans:
        if offset < end - begin:
            return begin + offset
        offset -= end - begin
    return spans[-1][1] - 1  # rounding
