"""Taskiq: asyncio on uvloop, aiohttp, and the broker that acknowledges (a Redis stream)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import uvloop
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from benchmarks.queues.calls import Tasks
from benchmarks.queues.role import IN_FLIGHT, REDIS_SOCKET, Letter, play

AT_ONCE = 100  # that the producer has on their way
broker = RedisStreamBroker(f"unix://{REDIS_SOCKET}", consumer_id="0", xread_count=IN_FLIGHT)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(state: TaskiqState) -> None:
    state.calls = Tasks()


@broker.task("send")
async def send(grant: str, id: str, body: str) -> None:
    await broker.state.calls.send(grant, id, body)


async def fill(letters: Sequence[Letter]) -> None:
    for first in range(0, len(letters), AT_ONCE):
        await asyncio.gather(*(add(letter) for letter in letters[first : first + AT_ONCE]))


async def add(letter: Letter) -> None:
    await send.kiq(letter.grant, letter.id, letter.body)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(broker.startup())
        play(lambda letters: runner.run(fill(letters)), lambda letter: runner.run(add(letter)))
        runner.run(broker.shutdown())
