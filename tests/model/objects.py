"""Two changes of one message, in a lane that may make two calls at once: which of them stands in the end.

A change may be made although no answer came; then its call is repeated. Which jobs a claim leaves out, and which of
the others begin together, is the product's own (`sendq.ledger.dispatching.loading`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, cast

from sendq.ledger.dispatching.loading import _behind
from sendq.rules.starts import first_to_begin
from tests.model.explorer import Promise, World
from tests.model.parts import NOBODY

WIDTH = 2
EARLIER, LATER = 0, 1


class Life(NamedTuple):
    """``jobs``: queued | later | loaded | begun | made | unknown | done. ``value``: whose change the message shows."""

    jobs: tuple[str, str] = ("queued", "queued")
    turn: bool = False
    kept: bool = False  # the turn keeps the object to itself, for a call of it was in vain
    value: int | None = None
    luck: int = 2

    def with_job(self, number: int, state: str) -> Life:
        jobs = list(self.jobs)
        jobs[number] = state
        return self._replace(jobs=(jobs[0], jobs[1]))


class Objects(World[Life]):
    """See the module."""

    protections: ClassVar[Mapping[str, Promise]] = {
        "one call at a time for an object": Promise.IN_ORDER,
        "behind one that waits for its retry": Promise.IN_ORDER,
        "a call in vain keeps its object": Promise.IN_ORDER,
    }

    def first(self) -> Iterator[Life]:
        yield Life()

    def steps(self, state: Life) -> Iterator[tuple[str, Life]]:
        for number, job in enumerate(state.jobs):
            words = ("the earlier change", "the later change")[number]
            match job:
                case "later":
                    yield f"{words} is due again", state.with_job(number, "queued")
                case "begun":
                    made = state._replace(value=number)
                    yield f"{words} is made", made.with_job(number, "made")
                    if state.luck:
                        made, unlucky = made._replace(luck=state.luck - 1), state._replace(luck=state.luck - 1)
                        yield f"{words} is made, and no answer comes", made.with_job(number, "unknown")
                        yield f"{words} is not made, and no answer comes", unlucky.with_job(number, "unknown")
                case "made":
                    yield f"{words} is recorded", self._next(state.with_job(number, "done"), kept=state.kept)
                case "unknown":
                    kept = self.has("a call in vain keeps its object")
                    yield f"{words} goes back for a retry", self._next(state.with_job(number, "later"), kept=kept)
        if not state.turn and "queued" in state.jobs:
            yield "a turn begins", self._claim(state)
        if state.turn and not {"begun", "made", "unknown"} & set(state.jobs):
            back = tuple("queued" if job == "loaded" else job for job in state.jobs)
            yield "the turn ends", state._replace(turn=False, kept=False, jobs=cast(tuple[str, str], back))

    def _claim(self, state: Life) -> Life:
        """Loads what is due, and begins what may go first."""
        rows: list[Any] = [
            SimpleNamespace(
                id=number,
                lane_id=NOBODY,
                object_id="message",
                due_at=number,
                behind=EARLIER if number == LATER and state.jobs[EARLIER] != "done" else None,
                behind_next_at=0,
                behind_rule=None,
            )
            for number, job in enumerate(state.jobs)
            if job == "queued"
        ]
        related = {row.id: row for row in rows}
        behind = _behind(rows, related, now=0) if self.has("behind one that waits for its retry") else {}
        after = state._replace(turn=True)
        for row in rows:
            if row.id not in behind:
                after = after.with_job(row.id, "loaded")
        return self._next(after, kept=False)

    def _next(self, state: Life, *, kept: bool) -> Life:
        """Begins what may go: after the claim, and with the commit of an outcome (`tasks.turn`)."""
        on_the_wire = {"begun", "made", "unknown"} & set(state.jobs)
        loaded = [SimpleNamespace(id=n, object_id="message") for n, job in enumerate(state.jobs) if job == "loaded"]
        one_at_a_time = self.has("one call at a time for an object")
        if one_at_a_time and (kept or on_the_wire):
            return state._replace(kept=kept)
        chosen = first_to_begin(cast(Any, loaded), WIDTH) if one_at_a_time else loaded[:WIDTH]
        for job in chosen:
            state = state.with_job(cast(int, job.id), "begun")
        return state._replace(kept=kept)

    def broken(self, state: Life) -> Iterator[Promise]:
        if state.jobs == ("done", "done") and state.value != LATER:
            yield Promise.IN_ORDER

    def done(self, state: Life) -> bool:
        return state.jobs == ("done", "done")
