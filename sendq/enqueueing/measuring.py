"""Measuring the files of messages ahead of time, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from sendq.enqueueing.planning import Send
from sendq.messages.content import Content, ContentFault
from sendq.messages.message import Message
from sendq.messages.mime import MimeMessage


async def measure_contents(sends: Iterable[Send]) -> None:
    """Read and hash the attachments of ``sends`` in a thread, so that `plan_sends` finds them measured."""
    contents = [content for send in sends if isinstance(send, Send) for content in _contents_of(send.message)]
    if contents:
        await asyncio.to_thread(_measure, contents)


def _contents_of(message: object) -> list[Content]:
    if isinstance(message, MimeMessage):
        return [message.content]
    return [attachment.content for attachment in message.attachments] if isinstance(message, Message) else []


def _measure(contents: Iterable[Content]) -> None:
    for content in contents:
        with suppress(ContentFault):  # `plan_sends` runs into it as well, and reports it with all other problems
            content.measure()
