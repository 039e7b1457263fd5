"""The part that every queue's program plays: it makes the queue ready, fills it at once, or feeds it gently.

    python -m benchmarks.queues.NAME prepare | fill FIRST JOBS | drip FIRST JOBS PER_SECOND

``fill`` prints the seconds of CPU that it took. ``drip`` prints those as ``cpu_s`` and, as ``taken``, the moment at
which the queue had each letter, in nanoseconds of the monotonic clock that all processes share. Both print JSON. Where
the servers are comes in variables. It imports no more than the standard library: the queues live in an environment of
their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

API = os.environ.get("PEER_API", "")
API_KEY = os.environ.get("PEER_API_KEY", "")
REDIS_SOCKET = os.environ.get("PEER_REDIS_SOCKET", "")
POSTGRES = os.environ.get("PEER_POSTGRES", "")  # postgresql://…
IN_FLIGHT = int(os.environ.get("PEER_IN_FLIGHT", "1"))
LANES = int(os.environ.get("PEER_LANES", "1"))

BODY_CHARACTERS = 2_000  # of a short letter in HTML


@dataclass(frozen=True)
class Letter:
    """One message that is to be sent."""

    number: int

    @property
    def id(self) -> str:
        """What makes a repeat known to the API."""
        return f"letter-{self.number}"

    @property
    def grant(self) -> str:
        return f"grant-{self.number % LANES}"

    @property
    def payload(self) -> dict[str, object]:
        to = [{"email": "leyah@example.com"}]
        return {"to": to, "subject": f"Invoice {self.number}", "body": "x" * BODY_CHARACTERS}

    @property
    def body(self) -> str:
        return json.dumps(self.payload)


def url(grant: str) -> str:
    return f"{API}/v3/grants/{grant}/messages/send"


def headers(id: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json", "Idempotency-Key": id}


def play(
    fill: Callable[[Sequence[Letter]], None],
    add: Callable[[Letter], None],
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Do what the command line says. ``fill`` takes all letters at once, ``add`` one that cannot wait for others."""
    match sys.argv[1:]:
        case ["prepare"]:
            prepare()
        case ["fill", first, jobs]:
            letters = _letters(first, jobs)
            before = time.process_time()
            fill(letters)
            print(json.dumps(time.process_time() - before))
        case ["drip", first, jobs, per_second]:
            letters = _letters(first, jobs)
            before = time.process_time()
            taken = _drip(add, letters, float(per_second))
            print(json.dumps({"taken": taken, "cpu_s": time.process_time() - before}))
        case _:
            sys.exit(f"{sys.argv[0]}: prepare, fill FIRST JOBS, or drip FIRST JOBS PER_SECOND")


def _letters(first: str, jobs: str) -> list[Letter]:
    return [Letter(int(first) + number) for number in range(int(jobs))]


def _drip(add: Callable[[Letter], None], letters: Sequence[Letter], per_second: float) -> dict[int, int]:
    began, taken = time.monotonic(), {}
    for place, letter in enumerate(letters):
        time.sleep(max(0.0, began + place / per_second - time.monotonic()))
        add(letter)
        taken[letter.number] = time.monotonic_ns()
    return taken
