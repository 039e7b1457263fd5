"""Celery with Nylas's own client, as its documentation shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nylas import Client

from benchmarks.queues.celery_pool import app
from benchmarks.queues.role import API, API_KEY, Letter, play

nylas = Client(API_KEY, API)


@app.task(name="send_by_sdk")
def send(grant: str, id: str, payload: Any) -> None:
    nylas.messages.send(grant, request_body=payload, overrides={"headers": {"Idempotency-Key": id}})


def fill(letters: Sequence[Letter]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for letter in letters:
            send.apply_async((letter.grant, letter.id, letter.payload), producer=producer)


def add(letter: Letter) -> None:
    send.delay(letter.grant, letter.id, letter.payload)


if __name__ == "__main__":
    play(fill, add)
