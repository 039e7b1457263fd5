"""arq: asyncio on uvloop, and aiohttp; no results are kept."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
from arq import create_pool, run_worker
from arq.connections import ArqRedis, RedisSettings

from benchmarks.queues.calls import Tasks
from benchmarks.queues.role import IN_FLIGHT, REDIS_SOCKET, Letter, play

AT_ONCE = 100  # that the producer has on their way
POLL_S = 0.02  # it finds new work by looking; its own half second would be all of its latency
REDIS = RedisSettings(unix_socket_path=REDIS_SOCKET)


async def open_session(context: dict[str, Any]) -> None:
    context["calls"] = Tasks()


async def send(context: dict[str, Any], grant: str, id: str, body: str) -> None:
    await context["calls"].send(grant, id, body)


class WorkerSettings:
    functions = (send,)
    on_startup = open_session
    redis_settings = REDIS
    max_jobs = IN_FLIGHT
    keep_result = 0
    poll_delay = POLL_S


async def fill(redis: ArqRedis, letters: Sequence[Letter]) -> None:
    for first in range(0, len(letters), AT_ONCE):
        await asyncio.gather(*(add(redis, letter) for letter in letters[first : first + AT_ONCE]))


async def add(redis: ArqRedis, letter: Letter) -> None:
    await redis.enqueue_job("send", letter.grant, letter.id, letter.body, _job_id=letter.id)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(WorkerSettings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        redis = runner.run(create_pool(REDIS))
        play(lambda letters: runner.run(fill(redis, letters)), lambda letter: runner.run(add(redis, letter)))
        runner.run(redis.aclose())
