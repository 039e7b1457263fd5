"""Measuring the files of messages ahead of time, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from sendq.enqueueing.options import Send
from sendq.messages.content import ContentFault
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage


async def measure_contents(sends: Iterable[Send]) -> None:
    """Read and hash the attachments of ``sends`` in a thread, so that `plan_sends` finds them measured."""
    readings = [reading for send in sends if isinstance(send, Send) for reading in _readings(send.message)]
    if readings:
        await asyncio.to_thread(_read, readings)


def _readings(message: object) -> list[Callable[[], object]]:
    if isinstance(message, MimeMessage):
        return [message.byte_faults]
    return [one.content.measure for one in message.attachments] if isinstance(message, Message) else []


def _read(readings: Iterable[Callable[[], object]]) -> None:
    for reading in readings:
        with suppress(ContentFault):  # `plan_sends` runs into it as well, and reports it with all other problems
            reading()
