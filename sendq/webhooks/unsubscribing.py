"""The endpoint of unsubscribe links (RFC 8058): ``POST`` unsubscribes, ``GET`` shows a page with a button.

    POST /unsubscribe/TOKEN   List-Unsubscribe=One-Click   200, also if it is repeated
    GET  /unsubscribe/TOKEN                                200, and nothing changes: programs look at links, too

Mail programs post without cookies and without a person. What the token says is all that counts; one that is not signed
by this ledger changes nothing, and costs no access to it. A request has at most `BODY_MOST` bytes.

Each process stores at most `RATE` a second, `BURST` at once; more get 429 and may come again. Requests with forged
tokens are not counted, so they cannot use up what others need.
"""

from __future__ import annotations

import asyncio
import html
import logging
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sendq.errors import SendqError
from sendq.messages.unsubscribe import ONE_CLICK
from sendq.messages.unsubscribe_token import read, signing_key
from sendq.queue import SendQueue

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

# A form with one field, in either encoding; mail programs add a boundary and little else.
BODY_MOST = 4_096

RATE = 100
BURST = 500

STORE_S = 4.0

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
     b"frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),  # the link is the person's
    (b"x-content-type-options", b"nosniff"),
    (b"x-robots-tag", b"noindex, nofollow"),
)  # fmt: skip

_log = logging.getLogger("sendq.webhooks")


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: its status, a heading and a sentence, and whether there is a button."""

    status: int
    title: str
    says: str
    button: bool = False

    def html(self) -> bytes:
        """The whole page."""
        field, value = ONE_CLICK.split("=")
        form = (
            f'<form method="post"><input type="hidden" name="{field}" value="{value}">'
            "<button>Unsubscribe</button></form>"
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self.title)}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;"
            "margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.5rem 1rem}</style>"
            f"<h1>{html.escape(self.title)}</h1><p>{html.escape(self.says)}</p>{form if self.button else ''}</html>"
        ).encode()


ASK = Page(200, "Unsubscribe?", "You will get no more mail of this kind.", button=True)
DONE = Page(200, "Unsubscribed", "You will get no more mail of this kind.")
UNKNOWN = Page(404, "This link is not valid", "It may have been cut off. Use the whole link in the mail.")
NOT_ASKED = Page(400, "Not unsubscribed", "Use the button on the page of the link.")
BUSY = Page(429, "Not yet unsubscribed", "There are too many requests. Try again in a minute.")
DOWN = Page(503, "Not yet unsubscribed", "Try again in a few minutes.")
TOO_LARGE = Page(413, "Not unsubscribed", "The request is too large.")
TOO_LATE = Page(408, "Not unsubscribed", "The request did not arrive in time.")
NO_METHOD = Page(405, "Not possible", "Use the link in the mail.")


class Endpoint:
    """Answers the requests of links. ``clock``: seconds, monotonic."""

    def __init__(self, queue: SendQueue | AsyncSendQueue, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._clock = queue, clock
        self._room, self._at = float(BURST), clock()

    async def ask(self, token: str) -> Page:
        """The page of a link. Nothing is changed."""
        links = await self._in_time(self._queue._links_for, None)
        if isinstance(links, Page):
            return links
        return UNKNOWN if read(signing_key(links.key), token) is None else ASK

    async def unsubscribe(self, token: str, body: bytes) -> Page:
        """Unsubscribe the person whom a token names, if that is what the body asks for."""
        if ONE_CLICK.encode() not in body and not _in_form_data(body):
            return NOT_ASKED
        asked = await self.ask(token)
        if asked is not ASK:
            return asked
        if not self._take_room():
            return BUSY
        done = await self._in_time(self._queue.unsubscribe, token)
        return done if isinstance(done, Page) else DONE if done else UNKNOWN

    def _take_room(self) -> bool:
        now = self._clock()
        self._room, self._at = min(BURST, self._room + (now - self._at) * RATE), now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    async def _in_time(self, method: Callable[..., Any], argument: object) -> Any:
        """The result of a method of the queue, or the page that says that the ledger does not answer."""
        try:
            async with asyncio.timeout(STORE_S):
                if isinstance(self._queue, SendQueue):
                    return await asyncio.to_thread(method, argument)
                return await method(argument)
        except (TimeoutError, SendqError) as error:
            _log.warning("unsubscribe: %s", type(error).__name__)
            return DOWN


def _in_form_data(body: bytes) -> bool:
    """Whether the field is there as ``multipart/form-data``, which RFC 8058 prefers."""
    field, value = (part.encode() for part in ONE_CLICK.split("="))
    _, there, rest = body.partition(b'name="' + field + b'"')
    return bool(there) and rest.partition(b"\r\n\r\n")[2].startswith(value)


async def send_page(send: Callable[[MutableMapping[str, Any]], Any], page: Page, *, head: bool = False) -> None:
    """Send a page in one piece."""
    body = page.html()
    headers = [
        (b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(body)).encode()), *_HEADERS,
    ]  # fmt: skip
    if page.status in (429, 503):
        headers.append((b"retry-after", b"60"))
    if page.status == 405:
        headers.append((b"allow", b"GET, HEAD, POST"))
    if page.status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})
