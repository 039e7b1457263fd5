"""Which lanes get the next turns. Pure.

Lanes of one (application, provider) are ordered by their ``next_at``: the one that has waited longest goes first, and a
lane that had a turn goes to the back, whatever its backlog. Free slots are dealt to the pairs round-robin, so that ten
thousand due Google lanes do not make an Exchange lane wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Lane = TypeVar("Lane")
Name = TypeVar("Name")


def fit(lanes: Sequence[tuple[Lane, int]], room: int) -> list[tuple[Lane, int]]:
    """The longest prefix of the lanes that fits into ``room``; the last may make fewer calls at once to fit."""
    fitting = []
    for lane, slots in lanes:
        if room <= 0:
            break
        fitting.append((lane, min(slots, room)))
        room -= slots
    return fitting


def choose(due: Mapping[Name, Sequence[tuple[Lane, int]]], free: int) -> list[tuple[Lane, int]]:
    """Lanes to serve now: ``due`` holds, for each pair, its due lanes in order with the calls each may make at once.

    A lane is chosen while at least one of the ``free`` slots is left; the last may take a little more than is free,
    or a wide lane would wait behind narrow ones forever.
    """
    queues = [iter(lanes) for lanes in due.values()]
    chosen: list[tuple[Lane, int]] = []
    while queues and free > 0:
        left = []
        for queue in queues:
            if free <= 0:
                break
            for lane, slots in queue:
                chosen.append((lane, slots))
                free -= slots
                left.append(queue)
                break
        queues = left
    return chosen


def bundles(turns: Sequence[tuple[Lane, int]], *, turns_each: int, slots_each: int) -> list[list[Lane]]:
    """Turns (with their slots) in bundles of at most ``turns_each``, none with more slots than one worker has."""
    packed: list[list[Lane]] = []
    room = 0
    for lane, slots in turns:
        if not packed or len(packed[-1]) >= turns_each or slots > room:
            packed.append([])
            room = slots_each
        packed[-1].append(lane)
        room -= slots
    return packed
