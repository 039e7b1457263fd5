"""sendq itself, as its README shows it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from benchmarks.queues.role import Letter, play
from sendq import Message, Options, Send, SendQueue
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine

# Its servers publish no limit, and one call at a time is what it may have: lanes are paced by nothing but the API.
PROVIDER = "imap"
queue = SendQueue(os.environ["DATABASE_URL"])


def message(letter: Letter) -> Message:
    return Message(to=["leyah@example.com"], subject=str(letter.payload["subject"]), body=str(letter.payload["body"]))


def fill(letters: Sequence[Letter]) -> None:
    options = Options(provider=PROVIDER)
    queue.send_many([Send(letter.grant, message(letter), options) for letter in letters])


def add(letter: Letter) -> None:
    queue.send(letter.grant, message(letter), provider=PROVIDER)


def prepare() -> None:
    migrate.upgrade(open_engine(os.environ["DATABASE_URL"]))


if __name__ == "__main__":
    play(fill, add, prepare)
