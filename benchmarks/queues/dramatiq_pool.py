"""Dramatiq: threads and one urllib3 pool; its middleware as it comes."""

from __future__ import annotations

from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.queues.calls import Threads
from benchmarks.queues.role import REDIS_SOCKET, Letter, play

dramatiq.set_broker(RedisBroker(url=f"unix://{REDIS_SOCKET}"))
calls = Threads()


@dramatiq.actor
def send(grant: str, id: str, body: str) -> None:
    calls.send(grant, id, body)


def fill(letters: Sequence[Letter]) -> None:
    for letter in letters:
        add(letter)


def add(letter: Letter) -> None:
    send.send(letter.grant, letter.id, letter.body)


if __name__ == "__main__":
    play(fill, add)
