"""A minute of damaged answers: ``python -m tests.fuzz_failure [SECONDS] [SEED]``. The tests run it for seconds.

Golden answers are cut, flipped, doubled, nested and glued together; each must lead to a sound decision and a whole
explanation. A finding is printed with the seed and the bytes, and ends the run with status 1.
"""

from __future__ import annotations

import json
import random
import sys
import time

from sendq.clock import SECOND
from tasks.policy.decide import decide
from tasks.policy.explain import explain
from tasks.policy.failure import OPERATIONS, PROVIDERS, Answer, parse
from tests.unit.test_decide import SEND, UNKNOWN
from tests.unit.test_explain import assert_whole
from tests.unit.test_policy import CASES, NOW, assert_sound

SEEDS = [json.dumps(case["body"]).encode() for case in CASES]
HEADERS = ("30", "-1", "soon", "9" * 40, "Thu, 08 Jan 2026 09:26:53 GMT", "\x00", "1e9", "")


def damaged(chance: random.Random) -> bytes:
    body = chance.choice(SEEDS)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(body) + 1)
        body = chance.choice(
            (
                body[:at],
                body[:at] + chance.randbytes(chance.randrange(8)) + body[at:],
                body[:at] + chance.choice(SEEDS)[at:],
                b'{"error":' * chance.randrange(50) + body,
                b"[" * chance.randrange(2000) + body,
                body.replace(b'"', b"", 1),
                body * chance.randrange(4),
                body.replace(b"a", b"\xff", 2),
            )
        )
    return body


def once(chance: random.Random) -> None:
    body = damaged(chance)
    status = chance.choice([None, 200, 202, 400, 401, 402, 403, 404, 409, 422, 429, 500, 502, 503, 504, 777])
    headers = {"retry-after": chance.choice(HEADERS), "idempotent-response": chance.choice(["true", "x"])}
    operation, provider = chance.choice(OPERATIONS), chance.choice(PROVIDERS)
    fault = chance.choice([None, "timeout", "dns", "cut"])
    try:
        outcome = parse(Answer(status, headers, body, fault), provider=provider, operation=operation, now=NOW)
        job = chance.choice([SEND, UNKNOWN])._replace(operation=operation, attempts=chance.randrange(20))
        assert_sound(decide(outcome, job, now=NOW, chance=chance.random), job)
        assert_whole(
            explain(status=status, headers=headers, body=body, provider=provider, operation=operation, now=NOW / SECOND)
        )
    except Exception:
        print(f"{status=} {headers=} {operation=} {provider=} {fault=} {body=}", file=sys.stderr)
        raise


def main(seconds: float = 60.0, seed: int | None = None) -> None:
    seed = random.randrange(2**32) if seed is None else seed
    print(f"seed {seed}")
    chance = random.Random(seed)
    ends = time.monotonic() + seconds
    count = 0
    while time.monotonic() < ends:
        once(chance)
        count += 1
    print(f"{count} answers, nothing found")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(float(words[0]) if words else 60.0, int(words[1]) if len(words) > 1 else None)
