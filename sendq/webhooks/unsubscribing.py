"""The endpoint of unsubscribe links (RFC 8058): ``POST`` unsubscribes, ``GET`` shows a page with a button.

    POST /unsubscribe/TOKEN   List-Unsubscribe=One-Click   200, also if it is repeated
    GET  /unsubscribe/TOKEN                                200, and nothing changes: programs look at links, too

Mail programs post without cookies and without a person. What the token says is all that counts; one that is not signed
by this ledger changes nothing, and costs no access to it. A request has at most `BODY_MOST` bytes.

One client cannot use up what others need:

- Of each token one request at a time asks the ledger; those that come meanwhile get its answer.
- A person who is on the list already costs one look-up, and no write.
- Each process stores at most `RATE` new entries a second, `BURST` at once; more get 429 and may come again.
- Links have separate threads and connections, `AT_ONCE` of them, so that notifications never wait for links.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sendq.errors import SendqError
from sendq.ledger.operators import suppressions
from sendq.messages.unsubscribe_token import Token, read, signing_key
from sendq.queue import SendQueue
from sendq.webhooks.link_pages import BUSY, DOWN, NOT_ASKED, UNKNOWN, Page, done, question
from sendq.webhooks.one_click_form import asks_one_click

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

# A form with one field, in either encoding; mail programs add a boundary and little else.
BODY_MOST = 4_096

RATE = 100
BURST = 500

# Accesses to the ledger at the same time. A pool has 15 connections (SQLAlchemy's default).
AT_ONCE = 4

# Tokens that wait for one: what the ledger stores in less than `STORE_S`, a few milliseconds each.
WAITING_MOST = 500

STORE_S = 4.0

_log = logging.getLogger("sendq.webhooks")


class _Loop:
    """What belongs to one event loop: an ASGI application may be served by several."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.asking: dict[str, asyncio.Task[Page]] = {}


class Endpoint:
    """Answers the requests of links. ``clock``: seconds, monotonic."""

    def __init__(self, queue: SendQueue | AsyncSendQueue, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._clock = queue, clock
        self._room, self._at = float(BURST), clock()
        self._key: bytes | None = None
        self._threads = ThreadPoolExecutor(AT_ONCE, "sendq-unsubscribe") if isinstance(queue, SendQueue) else None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def ask(self, token: str) -> Page:
        """The page of a link. Nothing is changed."""
        found = await self._read(token)
        return found if isinstance(found, Page) else question(found.category)

    async def unsubscribe(self, token: str, body: bytes, content_type: str = "") -> Page:
        """Unsubscribe the person whom a token names, if that is what the form asks for."""
        if not asks_one_click(body, content_type):
            return NOT_ASKED
        found = await self._read(token)
        if isinstance(found, Page):
            return found
        asking = self._of_loop().asking
        if token not in asking:
            if len(asking) >= WAITING_MOST:
                return BUSY
            asking[token] = asyncio.create_task(self._put_on_the_list(token, found))
            asking[token].add_done_callback(lambda _: asking.pop(token))
        return await asyncio.shield(asking[token])  # a client that leaves does not end it for the others

    async def _put_on_the_list(self, token: str, found: Token) -> Page:
        listed = await self._in_time(self._queue._ledger.read, partial(suppressions.is_listed, token=found))
        if isinstance(listed, Page):
            return listed
        if not listed:
            if not self._take_room():
                return BUSY
            stored = await self._in_time(self._queue.unsubscribe, token)
            if isinstance(stored, Page):
                return stored
            if not stored:
                return UNKNOWN
        return done(found.category)

    def _take_room(self) -> bool:
        now = self._clock()
        self._room, self._at = min(BURST, self._room + (now - self._at) * RATE), now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    async def _read(self, token: str) -> Token | Page:
        """What a token says, or the page of one that is not valid."""
        if self._key is None:
            links = await self._in_time(self._queue._links_for, None)
            if isinstance(links, Page):
                return links
            self._key = signing_key(links.key)
        return read(self._key, token) or UNKNOWN

    async def _in_time(self, method: Callable[..., Any], argument: object) -> Any:
        """The result of a method of the queue, or the page that says that the ledger does not answer."""
        try:
            async with asyncio.timeout(STORE_S), self._of_loop().turns:
                if self._threads is not None:
                    return await asyncio.get_running_loop().run_in_executor(self._threads, method, argument)
                return await method(argument)
        except (TimeoutError, SendqError) as error:
            _log.warning("unsubscribe: %s", type(error).__name__)
            return DOWN

    def _of_loop(self) -> _Loop:
        return self._loops.setdefault(asyncio.get_running_loop(), _Loop())
