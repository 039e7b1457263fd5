"""PgQueuer: a queue in PostgreSQL; asyncpg, asyncio on uvloop, aiohttp."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.queues.calls import Tasks
from benchmarks.queues.role import IN_FLIGHT, POSTGRES, Letter, play

AT_ONCE = 1_000  # letters that one statement takes in


async def connected() -> AsyncpgDriver:
    return AsyncpgDriver(await asyncpg.connect(POSTGRES))


async def work() -> None:
    calls, worker = Tasks(), PgQueuer(await connected())

    @worker.entrypoint("send")
    async def send(job: Job) -> None:
        await calls.send(**json.loads(job.payload or b""))

    # It holds no more than twice a batch at a time, so that twice the batch is what is in flight.
    await worker.run(batch_size=IN_FLIGHT // 2, max_concurrent_tasks=IN_FLIGHT)


def payload(letter: Letter) -> bytes:
    return json.dumps({"grant": letter.grant, "id": letter.id, "body": letter.body}).encode()


async def fill(queries: Queries, letters: Sequence[Letter]) -> None:
    for first in range(0, len(letters), AT_ONCE):
        part = letters[first : first + AT_ONCE]
        await queries.enqueue(["send"] * len(part), [payload(letter) for letter in part], [0] * len(part))


async def add(queries: Queries, letter: Letter) -> None:
    await queries.enqueue("send", payload(letter))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1:] == ["work"]:
            runner.run(work())
        queries = Queries(runner.run(connected()))
        play(
            lambda letters: runner.run(fill(queries, letters)),
            lambda letter: runner.run(add(queries, letter)),
            lambda: runner.run(queries.install()),
        )
