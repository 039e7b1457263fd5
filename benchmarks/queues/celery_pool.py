"""Celery with a pool of connections: threads, one urllib3 pool, a task that is acknowledged when it is done."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery

from benchmarks.queues.calls import Threads
from benchmarks.queues.role import REDIS_SOCKET, Letter, play

app = Celery(broker=f"redis+socket://{REDIS_SOCKET}")
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1, worker_pool="threads")
calls = Threads()


@app.task(name="send")
def send(grant: str, id: str, body: str) -> None:
    calls.send(grant, id, body)


def fill(letters: Sequence[Letter]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for letter in letters:
            send.apply_async((letter.grant, letter.id, letter.body), producer=producer)


def add(letter: Letter) -> None:
    send.delay(letter.grant, letter.id, letter.body)


if __name__ == "__main__":
    play(fill, add)
