"""No queue at all: the calls of aiohttp alone, as many at once as there may be. Nothing can cost less in Python."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from benchmarks.queues.calls import Tasks
from benchmarks.queues.role import IN_FLIGHT, Letter, play

WANTED = Path(os.environ.get("PEER_HOME", ".")) / "wanted"


def fill(letters: Sequence[Letter]) -> None:
    WANTED.write_text(str(len(letters)))


def add(letter: Letter) -> None:
    raise NotImplementedError("without a queue there is nothing to wait in")


async def work(jobs: int) -> None:
    calls, letters = Tasks(), (Letter(number) for number in range(jobs))
    await asyncio.gather(*(_send_all(calls, letters) for _ in range(IN_FLIGHT)))
    await asyncio.Event().wait()


async def _send_all(calls: Tasks, letters: Iterator[Letter]) -> None:
    for letter in letters:
        await calls.send(letter.grant, letter.id, letter.body)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        uvloop.run(work(int(WANTED.read_text())))
    play(fill, add)
