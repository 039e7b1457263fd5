"""Goes through every state that a small world can reach, the nearest first.

A world says how it begins, what may happen next, and which promise a state breaks. Two things are asked of it: no
state that it can reach breaks a promise, and from each of them some way leads to a rest in which everything is done
(so that nothing is stuck, and nothing goes round for ever). States are values: equal ones are one.
"""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

# More than any of our worlds has, by far: one that grows beyond it by accident should fail and not fill the memory.
STATES_MOST = 400_000


class Promise(StrEnum):
    """What is promised, whatever happens."""

    ONCE = "nothing is sent twice"
    DURABLE = "what was accepted reaches an end, or is visibly in doubt"
    TRUE = "what the ledger says is true"
    ONE_TURN = "one turn of a lane may call"
    WIDTH = "no more than the width are begun without an outcome"
    AWAKE = "no job waits in a lane that is asleep"
    IN_TIME = "nothing goes out that was cancelled, or whose time is over"
    IN_ORDER = "of two changes of one object, the later one stands"
    QUIET = "who asked for quiet is left alone: one incident, one step, then one call"
    INNOCENT = "no job is blamed for another's deed"


class World(ABC, Generic[S]):
    """A world with all its protections but ``without``, which is one of `protections`, or None."""

    # What can be taken out, and the promise that is broken then.
    protections: ClassVar[Mapping[str, Promise]]

    def __init__(self, without: str | None = None) -> None:
        assert without is None or without in self.protections, without
        self._without = without

    @property
    def whole(self) -> bool:
        """Whether nothing is taken out: then it is worth a longer look."""
        return self._without is None

    def has(self, protection: str) -> bool:
        """Whether this protection is in place."""
        assert protection in self.protections, protection
        return protection != self._without

    @abstractmethod
    def first(self) -> Iterable[S]:
        """The states in which it may begin."""

    @abstractmethod
    def steps(self, state: S) -> Iterable[tuple[str, S]]:
        """What may happen in a state, in words, and the state after it."""

    @abstractmethod
    def broken(self, state: S) -> Iterable[Promise]:
        """The promises that a state breaks."""

    @abstractmethod
    def done(self, state: S) -> bool:
        """Whether everything may stay as it is in this state for ever."""


@dataclass(frozen=True)
class Violation:
    """A promise that is broken, and the shortest way there."""

    promise: Promise
    path: tuple[str, ...]

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:2}. {step}" for number, step in enumerate(self.path, 1))
        return f"broken: {self.promise.value}{steps or ' (at once)'}"


@dataclass(frozen=True)
class Explored:
    """How many states there were until the first violation, or in all."""

    states: int
    violation: Violation | None


@contextmanager
def _kept() -> Iterator[None]:
    """States live as long as the search; the garbage collector would look at all of them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@_kept()
def explore(world: World[S], *, promise: Promise | None = None) -> Explored:
    """Look at every state, the nearest first, until one breaks a promise; ``promise``: this one, whatever others do."""
    came_from: dict[S, tuple[S, str] | None] = {}
    before: dict[S, list[S]] | None = {} if promise in (None, Promise.DURABLE) else None
    frontier: deque[S] = deque()
    for state in world.first():
        if state not in came_from:
            came_from[state] = None
            frontier.append(state)
    while frontier:
        state = frontier.popleft()
        for broken in world.broken(state):
            if promise in (None, broken):
                return Explored(len(came_from), Violation(broken, _path(came_from, state)))
        for step, after in world.steps(state):
            if before is not None:
                before.setdefault(after, []).append(state)
            if after not in came_from:
                assert len(came_from) < STATES_MOST, "this world is too large"
                came_from[after] = (state, step)
                frontier.append(after)
    lost = None if before is None else _first_without_a_way_out(world, came_from, before)
    return Explored(len(came_from), None if lost is None else Violation(Promise.DURABLE, _path(came_from, lost)))


def _first_without_a_way_out(
    world: World[S], came_from: Mapping[S, tuple[S, str] | None], before: Mapping[S, list[S]]
) -> S | None:
    saved = {state for state in came_from if world.done(state)}
    frontier = deque(saved)
    while frontier:
        for state in before.get(frontier.popleft(), ()):
            if state not in saved:
                saved.add(state)
                frontier.append(state)
    return next((state for state in came_from if state not in saved), None)


def _path(came_from: Mapping[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    steps = []
    while (last := came_from[state]) is not None:
        state, step = last
        steps.append(step)
    return tuple(reversed(steps))
