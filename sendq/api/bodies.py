"""Reading what a client sends, within bounds of size, time and depth, before the ledger is used.

The whole body arrives first: a client that is slow, or that goes away, holds no transaction.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from sendq.api.limits import BodyMemory
from sendq.api.problems import TRY_AGAIN_S, Refused
from sendq.errors import InvalidJob
from sendq.messages.content import MOST_BYTES
from sendq.messages.from_json import strict_json

# Bytes. A JSON request to Nylas has at most 3 MB; many messages, or a file in base64, may come in one request here.
JSON_MOST = 10_000_000
# A whole request to Nylas with its files, and some more for the text of the form.
FORM_MOST = MOST_BYTES + 1_000_000

# Bytes of bodies kept at the same time, in memory or (files of forms) in temporary files.
KEPT_MOST = 256 * 1024 * 1024
# Of these, the bytes of one token: two forms.
EACH_MOST = 64 * 1024 * 1024

# Seconds until the whole body, and until the next so many bytes of it, have to be there.
BODY_S, PART_S, PART_BYTES = 120.0, 15.0, 64 * 1024

DEPTH_MOST = 20  # a message needs five levels
# Commas and opening brackets, each of which adds a value or two: 10,000 messages to twenty named recipients each have
# 700,000. Values take a multiple of their bytes in memory.
VALUES_MOST = 1_000_000

LARGE = 256 * 1024  # bytes; larger bodies are parsed one at a time, and of those of one token one is handled at a time

JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"


class Incoming:
    """The body of one request."""

    def __init__(self, request: Request, memory: BodyMemory) -> None:
        self._request, self._memory = request, memory
        self._taken = 0
        self.token_id = ""

    @property
    def headers(self) -> Headers:
        """Of the request."""
        return self._request.headers

    @property
    def media_type(self) -> str:
        """Without parameters; empty: there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_large(self) -> bool:
        """Whether what was read of it so far takes long to handle."""
        return self._taken >= LARGE

    def require(self, *allowed: str, most: int) -> None:
        """Refuse a content type, an encoding or a length that is known not to be supported, before reading."""
        if self.media_type not in allowed:
            raise Refused("media-type", f"Send {' or '.join(allowed)}.", headers={"accept": ", ".join(allowed)})
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused("media-type", "Send it without a content encoding.", headers={"accept-encoding": "identity"})
        charset = parse_options_header(self.headers.get("content-type"))[1].get(b"charset", b"").strip(b"'").lower()
        if charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
            raise Refused("media-type", "Send it in UTF-8.")
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)

    async def stream(self, most: int) -> AsyncIterator[bytes]:
        """The body, part by part. Raises `Refused` if it is larger than ``most``, or too slow."""
        size, loop = 0, asyncio.get_running_loop()
        deadline = loop.time() + BODY_S
        part_deadline, part_size = loop.time() + PART_S, 0
        parts = self._request.stream().__aiter__()
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, part_deadline)):
                    part = await anext(parts, None)
            except TimeoutError:
                detail = "Nothing was stored. Send it again."
                raise Refused("too-slow", detail, again_s=TRY_AGAIN_S, headers=CLOSE) from None
            except ClientDisconnect:
                raise Gone from None
            if part is None:
                return
            size += len(part)
            part_size += len(part)
            if part_size >= PART_BYTES:
                part_deadline, part_size = loop.time() + PART_S, 0
            if size > most:
                raise _too_large(most)
            if not self._memory.take(len(part), self.token_id):
                detail = "The server, or this token, has no room for another request body now. Try again."
                raise Refused("unavailable", detail, again_s=TRY_AGAIN_S, headers=CLOSE)
            self._taken += len(part)
            yield part

    async def json(self, *, optional: bool = False) -> Any:
        """The body as JSON; None: it is empty, and ``optional``. Raises `Refused`.

        Whether it is empty only its end shows: in HTTP/2, no header has to announce a body.
        """
        if not optional:
            self.require(JSON_TYPE, most=JSON_MOST)
        body = bytearray()
        async for part in self.stream(JSON_MOST):
            if part and not body:
                self.require(JSON_TYPE, most=JSON_MOST)
            body += part
        return None if optional and not body else await self.parsed(bytes(body))

    async def parsed(self, body: bytes, what: str = "The body") -> Any:
        """JSON that was a part of the body, or all of it. Raises `Refused`, with ``what`` it is."""
        if len(body) < LARGE:
            return await run_in_threadpool(parsed, body, what)
        async with self._memory.parsing:
            return await run_in_threadpool(parsed, body, what)

    def release(self) -> None:
        """What was read is no longer kept."""
        self._memory.give_back(self._taken, self.token_id)
        self._taken = 0


class Gone(Exception):
    """The client has closed the connection, so no answer is sent."""


CLOSE = {"connection": "close"}  # the rest of the request is not read


def parsed(body: bytes, what: str = "The body") -> Any:
    """JSON, strictly: UTF-8, each name once, no NaN, not too many values or levels. Raises `Refused`."""
    if not body:
        raise Refused("malformed", f"{what} is empty: send JSON.")
    if _has_many_values(body):
        raise Refused("too-large", f"{what} has more than {VALUES_MOST:,} values. Send it in several requests.")
    try:
        value = strict_json(body)
    except InvalidJob as wrong:
        (problem,) = wrong.problems
        raise Refused("malformed", f"{what} {problem.reason}: {problem.remedy}.") from None
    if _is_deep(value):
        raise Refused("malformed", f"{what} is nested too deeply: use at most {DEPTH_MOST} levels.")
    return value


_string = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def _has_many_values(body: bytes) -> bool:
    """Before it is parsed, from its bytes. Only if there are many marks, those within strings are left out."""
    marks = _marks(body)
    if marks <= VALUES_MOST:
        return False
    if body.count(b'"') > 4 * VALUES_MOST:  # keys and values, each with two
        return True
    return marks - sum(_marks(one[0]) for one in _string.finditer(body)) > VALUES_MOST


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MOST + 1):
        within: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                within += one.values()
            elif isinstance(one, list):
                within += one
        if not within:
            return False
        level = within
    return True


def _too_large(most: int) -> Refused:
    return Refused("too-large", f"A request of this kind has at most {most:,} bytes.", headers=CLOSE)
