"""Which lanes get the next turns. Pure.

Lanes of one (application, provider) stand in the order of their ``next_at``: who has waited longest goes first, and a
lane that had a turn goes to the back, whatever its backlog. Between the pairs the free slots go round one by one, so
that ten thousand due Google lanes do not make an Exchange lane wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Lane = TypeVar("Lane")
Name = TypeVar("Name")


def fit(lanes: Sequence[tuple[Lane, int]], room: int) -> list[tuple[Lane, int]]:
    """As many of the first lanes as have room together; the last may make fewer calls at once to fit."""
    fitting = []
    for lane, slots in lanes:
        if room <= 0:
            break
        fitting.append((lane, min(slots, room)))
        room -= slots
    return fitting


def choose(due: Mapping[Name, Sequence[tuple[Lane, int]]], free: int) -> list[tuple[Lane, int]]:
    """Lanes to serve now: ``due`` gives, for each pair, its due lanes in order with the calls each may make at once.

    A lane is chosen while at least one of the ``free`` slots is left; the last may take a little more than is free,
    or a wide lane would wait behind narrow ones for ever.
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
