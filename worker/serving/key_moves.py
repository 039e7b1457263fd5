"""Which jobs this process has given a new idempotency key lately.

A refusal moves a job on to its next key. If the ledger loses that record and the next key has been used, the job must
not go out under its first key again: whether the API stores a refusal is not documented for all of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from uuid import UUID

from sendq.facts.outcomes import Outcome

# A bound on memory (some 20 MB): more refusals than a worker meets within the age of a key.
MOST = 100_000


class KeyMoves:
    """Thread-safe. Forgets a move after ``keep_s`` seconds: an older loss is not repaired by repeating keys."""

    def __init__(self, keep_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._monotonic = keep_s, monotonic
        self._moves: deque[tuple[float, UUID, int]] = deque(maxlen=MOST)
        self._lock = threading.Lock()

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Remember the new generations of these outcomes."""
        now = self._monotonic()
        moved = [
            (now, outcome.job_id, outcome.attempt.generation + 1)
            for outcome in outcomes
            if outcome.new_generation and outcome.attempt is not None
        ]
        if moved:
            with self._lock:
                self._moves.extend(moved)

    def recent(self) -> dict[UUID, int]:
        """The latest generation of each job that was moved on."""
        oldest = self._monotonic() - self._keep_s
        with self._lock:
            while self._moves and self._moves[0][0] < oldest:
                self._moves.popleft()
            latest: dict[UUID, int] = {}
            for _, job_id, generation in self._moves:
                latest[job_id] = max(generation, latest.get(job_id, 0))
            return latest
