"""What several worlds are made of: a job as the ledger keeps it, and answers as the API gives them.

Where the product is pure its own code is called, so that the worlds cannot drift from it: the table of moves, what an
outcome or a death makes of a job (`sendq.rules.job_change`), the objections before a call (`sendq.rules.preflight`),
and from an answer to a decision (`tasks.policy.failure`, `tasks.policy.table`, `tasks.policy.decide`).
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple, cast
from uuid import UUID

from sendq.clock import SECOND, Micros
from sendq.facts.outcomes import Attempt, Outcome
from sendq.rules.job_change import after_loss, after_outcome
from sendq.rules.preflight import KEY_MAX_AGE
from sendq.rules.states import MOVES, Event, State, move
from tasks.policy.decide import Decision, JobFacts, decide
from tasks.policy.failure import Answer, Failure, Success, parse

NOBODY = UUID(int=0)
MINUTE: Micros = 60 * SECOND


class Job(NamedTuple):
    """The columns of a job that decide something."""

    operation: str = "send"
    form: str | None = "json"
    state: str = State.QUEUED.value
    due_at: Micros = 0
    expires_at: Micros | None = None
    attempts: int = 0
    deaths: int = 0
    conflicts: int = 0
    generation: int = 0
    key_at: Micros | None = None
    doubt_at: Micros | None = None
    refused_at: Micros | None = None
    turn: int | None = None
    begun_at: Micros | None = None
    cancel_at: Micros | None = None
    looks: int | None = None
    misses: int | None = None

    def having(self, row: dict[str, Any]) -> Job:
        """With those columns of ``row`` that are followed here."""
        return self._replace(**{name: value for name, value in row.items() if name in self._fields})

    def moved(self, event: Event) -> Job:
        """After ``event``, by the table of moves."""
        return self._replace(state=move(State(self.state), event).value)

    def begun(self, fence: int, *, now: Micros) -> Job:
        """Begun in the turn of this fence, as `sendq.ledger.dispatching.turns.begin` does it."""
        key_at = now if self.key_at is None else self.key_at
        return self.moved(Event.BEGIN)._replace(turn=fence, begun_at=now, key_at=key_at)

    def in_turn(self, fence: int) -> bool:
        """Whether it is begun in the turn of this fence."""
        return self.state == State.SENDING and self.turn == fence

    def after(self, outcome: Outcome, *, now: Micros) -> Job:
        """After an outcome that is applied to it."""
        return self.having(after_outcome(cast(Any, self), outcome, now=now))

    def recorded(self, outcome: Outcome, *, now: Micros) -> Job:
        """After an outcome was recorded; by `sendq.ledger.dispatching.record`: facts are not fenced, the rest is."""
        known = outcome.event is Event.ACCEPT and Event.ACCEPT in MOVES[State(self.state)]
        return self.after(outcome, now=now) if known or self.in_turn(outcome.fence) else self

    def left_behind(self, *, now: Micros, key_max_age: Micros = KEY_MAX_AGE) -> Job:
        """After its worker was lost, as `sendq.ledger.dispatching.rescue` does it."""
        return self.having(after_loss(cast(Any, self), rule="", died=True, now=now, key_max_age=key_max_age))


def outcome_of(
    fence: int, event: Event, *, attempt: int = 0, generation: int | None = None, begun_at: Micros = 0, **rest: Any
) -> Outcome:
    """An outcome; with ``generation``, one that a call had."""
    name = UUID(int=attempt)
    called = (
        None if generation is None else Attempt(name, NOBODY, generation, None, begun_at, begun_at, None, "", None, "")
    )
    return Outcome(
        id=name,
        lane_id=NOBODY,
        fence=fence,
        job_id=NOBODY,
        operation="send",
        event=event,
        rule="",
        next_at=0,
        attempt=called,
        begun_at=begun_at,
        **rest,
    )


def decided(answer: str, job: Job, *, begun_at: Micros, now: Micros, unknown_before: bool) -> Decision:
    """What one of `ANSWERS` to a call for this job means, as `tasks.turn` asks it."""
    key_at = job.key_at if job.key_at is not None else begun_at
    facts = JobFacts(
        operation=job.operation,
        attempts=job.attempts,
        generation=job.generation,
        key_age=begun_at - key_at,
        expires_at=job.expires_at,
        unknown_before=unknown_before,
        attempt_known=job.doubt_at is not None,
        conflicts=job.conflicts,
    )
    return decide(_parsed(answer, job.operation), facts, now=now, chance=lambda: 0.0)


@cache
def _parsed(answer: str, operation: str) -> Success | Failure:
    return parse(ANSWERS[answer], provider="google", operation=operation, now=0)


def _error(status: int, kind: str, words: str, provider: str | None = None) -> Answer:
    """In the API's own form, with the provider's words inside if it was the provider who refused."""
    error = {"type": kind, "message": words} | ({"provider_error": {"message": provider}} if provider else {})
    return Answer(status, {}, json.dumps({"request_id": "r", "error": error}).encode())


ANSWERS = {
    "accepted": Answer(200, {}, b'{"request_id": "r", "data": {"id": "m"}}'),
    "504": _error(504, "provider_error", "no answer in time"),
    "refused by the provider": _error(422, "provider_error", "refused", "451 4.7.1 come back later"),
    "refused by the gate": _error(429, "rate_limit_error", "too many requests, please try again shortly"),
    "throttled": _error(429, "rate_limit_error", "slow down", "the account is throttled"),
    "unauthorized": _error(401, "unauthorized", "Unauthorized", "invalid authentication credentials"),
    "refused for good": _error(400, "invalid_request_error", "error parsing request body"),
    "in progress": _error(409, "api.concurrent_idempotent_request", "a request with the same key is in progress"),
    "no answer": Answer(None, {}, b"", fault="timeout"),
    "died": Answer(None, {}, b"", fault="died"),
    "no connection": Answer(None, {}, b"", fault="connect"),
}

# What is stored under a key comes again with this header.
GATES = ("refused by the gate", "throttled", "unauthorized", "refused for good")
for _name in ("accepted", "504", "refused by the provider", *GATES):
    _stored = ANSWERS[_name]
    ANSWERS[f"{_name}, replayed"] = Answer(_stored.status, {"idempotent-response": "true"}, _stored.body)
