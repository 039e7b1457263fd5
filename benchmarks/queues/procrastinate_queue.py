"""procrastinate: a queue in PostgreSQL; asyncio on uvloop, aiohttp, and finished jobs are deleted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.queues.calls import Tasks
from benchmarks.queues.role import IN_FLIGHT, POSTGRES, Letter, play

AT_ONCE = 1_000  # letters that one statement takes in
CONNECTIONS = 20

app = App(connector=PsycopgConnector(conninfo=POSTGRES, min_size=1, max_size=CONNECTIONS))
calls: Tasks


@app.task(name="send")
async def send(grant: str, id: str, body: str) -> None:
    await calls.send(grant, id, body)


def arguments(letter: Letter) -> dict[str, str]:
    return {"grant": letter.grant, "id": letter.id, "body": letter.body}


async def work() -> None:
    global calls
    calls = Tasks()
    async with app.open_async():
        await app.run_worker_async(concurrency=IN_FLIGHT, delete_jobs="successful")


async def open_app() -> None:
    await app.open_async()


async def fill(letters: Sequence[Letter]) -> None:
    for first in range(0, len(letters), AT_ONCE):
        await send.batch_defer_async(*(arguments(letter) for letter in letters[first : first + AT_ONCE]))


async def add(letter: Letter) -> None:
    await send.defer_async(**arguments(letter))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if sys.argv[1:] == ["work"]:
            runner.run(work())
        runner.run(open_app())
        play(
            lambda letters: runner.run(fill(letters)),
            lambda letter: runner.run(add(letter)),
            lambda: runner.run(app.schema_manager.apply_schema_async()),
        )
        runner.run(app.close_async())
