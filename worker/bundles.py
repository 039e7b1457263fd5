"""The broker message that carries a bundle of turns.

Only ids and numbers. A newer version may only append fields to a turn, so this one ignores what it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sendq.facts.turns import Turn

BUNDLE = "sendq.bundle"  # the task whose messages carry bundles


def as_message(turns: Sequence[Turn]) -> list[list[Any]]:
    """A bundle as a broker message: only ids and numbers."""
    return [[turn.lane_id.hex, turn.fence, turn.slots] for turn in turns]


def from_message(turns: object) -> tuple[list[tuple[UUID, int, int]], bool]:
    """The turns of a bundle (lane, fence, slots) that can be read, and whether that is all of them.

    New versions only append fields, so additional fields of a turn are ignored.
    """
    if not isinstance(turns, list):
        return [], False
    readable = []
    for turn in turns:
        try:
            lane, fence, slots, *_ = turn
            readable.append((UUID(lane), int(fence), max(1, int(slots))))
        except (TypeError, ValueError, AttributeError):
            continue
    return readable, len(readable) == len(turns)
