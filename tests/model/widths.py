"""A turn with five jobs and two calls at once: how many are begun without an outcome, at every moment.

The turn asks for the next jobs as answers come in, before the outcomes are committed; the recorder commits what it was
given in its order. Whatever is begun then is what would be in doubt if the worker died just now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from tests.model.explorer import Promise, World

JOBS, WIDTH = 5, 2


class Entry(NamedTuple):
    """What the turn wants committed: outcomes, and jobs to begin."""

    outcomes: int
    begins: int


class Life(NamedTuple):
    """Jobs by how far they are. ``on_wire`` and ``counted``: what the turn knows, and what it counts as open."""

    waiting: int = JOBS
    sending: int = 0  # in the ledger
    done: int = 0
    on_wire: int = 0
    counted: int = 0
    entries: tuple[Entry, ...] = ()


class Widths(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "a claim begins no more than the width": Promise.WIDTH,
        "begins are committed with the outcome": Promise.WIDTH,
        "what is being begun counts as open": Promise.WIDTH,
    }

    def first(self) -> Iterator[Life]:
        begun = WIDTH if self.has("a claim begins no more than the width") else JOBS
        yield Life(waiting=JOBS - begun, sending=begun, on_wire=begun, counted=begun)

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        if state.on_wire:
            yield "an answer comes", self._answered(state)
        if state.entries:
            entry, *rest = state.entries
            counted = state.counted
            if not self.has("what is being begun counts as open"):
                counted += entry.begins
            yield (
                f"committed: {entry.outcomes} outcomes, {entry.begins} begun",
                state._replace(
                    sending=state.sending - entry.outcomes + entry.begins,
                    done=state.done + entry.outcomes,
                    on_wire=state.on_wire + entry.begins,
                    counted=counted,
                    entries=tuple(rest),
                ),
            )

    def _answered(self, state: Life) -> Life:
        """As `tasks.turn` carries a job out: the call is over, and so many others may begin with its outcome."""
        counted = state.counted - 1
        begins = min(state.waiting, max(0, WIDTH - counted))
        if self.has("begins are committed with the outcome"):
            entries = (*state.entries, Entry(1, begins))
        else:
            entries = (*state.entries, Entry(0, begins), Entry(1, 0))
        if self.has("what is being begun counts as open"):
            counted += begins
        return state._replace(
            waiting=state.waiting - begins, on_wire=state.on_wire - 1, counted=counted, entries=entries
        )

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.sending > WIDTH:
            yield Promise.WIDTH

    def done(self, state: Life) -> bool:
        return state.done == JOBS
