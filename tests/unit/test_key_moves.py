"""Which jobs a process has given a new idempotency key lately."""

from __future__ import annotations

from uuid import UUID

from sendq.facts.outcomes import Attempt, Outcome
from sendq.ids import new_id
from sendq.rules.states import Event
from worker.serving.key_moves import KeyMoves


def outcome(job: UUID, generation: int, *, moves: bool = True) -> Outcome:
    attempt = Attempt(new_id(), job, generation, None, 0, 1, 429, "throttled", "retry", "no")
    return Outcome(attempt.id, new_id(), 1, job, "send", Event.RETURN, "throttled", 0, attempt, new_generation=moves)


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


class TestKeyMoves:
    def test_are_the_latest_of_each_job(self) -> None:
        moves, one, other = KeyMoves(60.0), new_id(), new_id()
        moves.note([outcome(one, 0), outcome(other, 4), outcome(one, 1), outcome(new_id(), 0, moves=False)])
        assert moves.recent() == {one: 2, other: 5}

    def test_are_forgotten_with_the_key(self) -> None:
        clock, one, other = Clock(), new_id(), new_id()
        moves = KeyMoves(60.0, monotonic=clock)
        moves.note([outcome(one, 0)])
        clock.at = 59.0
        moves.note([outcome(other, 0)])
        assert moves.recent().keys() == {one, other}
        clock.at = 61.0
        assert moves.recent().keys() == {other}
