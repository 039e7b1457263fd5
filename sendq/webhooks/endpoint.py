"""`asgi`: a ready application for Nylas webhooks, to serve by itself or to mount in FastAPI, Starlette or others.

It reads no more of a body than a notification can have, and waits no longer than Nylas waits for an answer. It answers
with a content length and in one piece, because Nylas's activation does not accept chunks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from sendq.facts.notices import MailNotice, OutcomeOptions
from sendq.queue import SendQueue
from sendq.scope import DEFAULT_APPLICATION
from sendq.webhooks.grouping import Groups
from sendq.webhooks.link_pages import NO_METHOD, Page, send_page
from sendq.webhooks.link_pages import TOO_LARGE as FORM_TOO_LARGE
from sendq.webhooks.link_pages import TOO_LATE as FORM_TOO_LATE
from sendq.webhooks.notice import BODY_MOST, TOO_LARGE, Received, challenge, read
from sendq.webhooks.receiving import apply, apply_async
from sendq.webhooks.unsubscribing import BODY_MOST as FORM_MOST
from sendq.webhooks.unsubscribing import Endpoint

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

# Nylas waits 10 s for an answer. Reading and storing get less than half of that each.
READ_S = 4.0
STORE_S = 4.0

NO_ROUTE = Received(404, "no application's webhook is at this path")

_log = logging.getLogger("sendq.webhooks")


def asgi(
    queue: SendQueue | AsyncSendQueue,
    *,
    secret: str | Mapping[str, str],
    application: str = DEFAULT_APPLICATION,
    path: str = "/",
    delivered_outcomes: bool = False,
    outcome_addresses: Collection[str] = (),
    unsubscribe_path: str | None = "unsubscribe",
) -> Application:
    """An ASGI application that receives the webhooks of Nylas, and answers unsubscribe links.

    With one ``secret`` it answers at ``path`` for ``application``. With a mapping of applications to their secrets it
    answers at ``path/NAME`` for each, and at ``path`` for the one named ``default``. Paths are relative to the mount
    point; Starlette redirects the mount point itself (``/hooks``), so register ``/hooks/`` at Nylas. The logger
    ``sendq.webhooks`` logs each answer to a ``POST``, with status and sentence but without body and token. For
    ``delivered_outcomes`` and ``outcome_addresses`` see `receive`.

    Links of ``Message(unsubscribe=…)`` are answered at ``path/unsubscribe/TOKEN`` (`sendq.webhooks.unsubscribing`), so
    the queue's ``unsubscribe_url`` ends with ``/unsubscribe``. ``unsubscribe_path`` None: not here.

    Raises ``ValueError`` if a secret is empty, or there is none.
    """
    base = path.strip("/")
    if isinstance(secret, str):
        routes = {base: (application, secret)}
    else:
        routes = {f"{base}/{name}".strip("/"): (name, one) for name, one in secret.items()}
        if DEFAULT_APPLICATION in secret:
            routes[base] = (DEFAULT_APPLICATION, secret[DEFAULT_APPLICATION])
    if not routes or not all(one for _, one in routes.values()):
        raise ValueError("secret: is empty, so anyone could sign; pass the webhook's secret")
    store = _Store(queue, outcomes=OutcomeOptions(delivered_outcomes, frozenset(outcome_addresses)))
    links = None if unsubscribe_path is None else f"{base}/{unsubscribe_path.strip('/')}/".lstrip("/")
    endpoint = Endpoint(queue)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        below = _path_below(scope)
        if links is not None and below.startswith(links):
            await _answer_link(endpoint, below[len(links) :], scope, receive, send)
        else:
            await _answer(store, routes, scope, receive, send)

    return _serving(answer)


def unsubscribe_asgi(queue: SendQueue | AsyncSendQueue, *, path: str = "/") -> Application:
    """An ASGI application that answers unsubscribe links only, at ``path/TOKEN``."""
    links, endpoint = f"{path.strip('/')}/".lstrip("/"), Endpoint(queue)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        below = _path_below(scope)
        token = below[len(links) :] if below.startswith(links) else ""
        await _answer_link(endpoint, token, scope, receive, send)

    return _serving(answer)


def _serving(answer: Application) -> Application:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return serve


async def _answer_link(endpoint: Endpoint, token: str, scope: Scope, receive: Receive, send: Send) -> None:
    method = scope["method"]
    if method in ("GET", "HEAD"):
        page: Page | None = await endpoint.ask(token)
    elif method == "POST":
        page = await _posted(endpoint, token, scope, receive)
    else:
        page = NO_METHOD
    if page is not None:
        await send_page(send, page, http_version=_http_version(scope), head=method == "HEAD")


async def _posted(endpoint: Endpoint, token: str, scope: Scope, receive: Receive) -> Page | None:
    """The answer to a form; None: the client has disconnected."""
    headers = _headers(scope)
    body = await _body(headers, receive, FORM_MOST)
    if body is None:
        return None
    if isinstance(body, bytes):
        page = await endpoint.unsubscribe(token, body, headers.get(b"content-type", ""))
    else:
        page = FORM_TOO_LARGE if body.status == 413 else FORM_TOO_LATE
    _log.info("unsubscribe: %d, %s", page.status, page.title)
    return page


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _http_version(scope: Scope) -> str:
    return str(scope.get("http_version", "1.1"))


async def _live(receive: Receive, send: Send) -> None:
    """Start opens nothing, and shutdown does not close the queue: its owner does."""
    while True:
        asked = (await receive())["type"]
        await send({"type": f"{asked}.complete"})
        if asked == "lifespan.shutdown":
            return


async def _answer(
    store: _Store,
    routes: Mapping[str, tuple[str, str]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    route = routes.get(_path_below(scope))
    if route is None:
        if scope["method"] == "POST":
            _log.warning("webhook: 404, %s", NO_ROUTE.says)
        await _say(send, NO_ROUTE)
    elif scope["method"] == "GET":
        await _echo(scope, send)
    elif scope["method"] == "POST":
        await _take_in(store, route, scope, receive, send)
    else:
        await _say(send, Received(405, "a webhook accepts GET and POST"), (b"allow", b"GET, POST"))


def _path_below(scope: Scope) -> str:
    """The path below the mount. Some servers and frameworks leave the mount's own path in front of it, some do not."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.strip("/")


async def _echo(scope: Scope, send: Send) -> None:
    value = challenge(scope.get("query_string", b"").decode(errors="replace"))
    if value is None:
        await _say(send, Received(400, "this is a webhook for Nylas; the query has no challenge"))
    else:
        await _say(send, Received(200, value))


async def _take_in(store: _Store, route: tuple[str, str], scope: Scope, receive: Receive, send: Send) -> None:
    application, secret = route
    headers = _headers(scope)
    body = await _body(headers, receive)
    if body is None:
        return  # the client has disconnected
    if isinstance(body, Received):
        answer = body
    else:
        answer = await store.apply(application, secret, body, headers.get(b"x-nylas-signature"))
    _log.log(
        logging.INFO if answer.status == 200 else logging.WARNING,
        "webhook of %s: %d, %s", application, answer.status, answer.says,
    )  # fmt: skip
    # Servers read the rest of a body that the application did not, to its end, unless the connection is to be closed.
    close = answer.status in (408, 413) and _http_version(scope).startswith("1")
    await _say(send, answer, *([(b"connection", b"close")] if close else []))


async def _body(headers: Mapping[bytes, str], receive: Receive, most: int = BODY_MOST) -> bytes | Received | None:
    """The whole body, or the answer if it is too large or too late; None if the client disconnected."""
    announced = headers.get(b"content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        return TOO_LARGE
    body = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return None
                body += event.get("body", b"")
                if len(body) > most:
                    return TOO_LARGE
                if not event.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return Received(408, "the notification did not arrive in time")


class _Store:
    """The ledger that an application stores in."""

    def __init__(self, queue: SendQueue | AsyncSendQueue, *, outcomes: OutcomeOptions) -> None:
        self._queue, self._groups = queue, Groups(queue, outcomes=outcomes)

    async def apply(self, application: str, secret: str, body: bytes, signature: str | None) -> Received:
        """The answer of `receive`, or 503 if it takes too long. If it commits after that, the repeat is a duplicate."""
        try:
            async with asyncio.timeout(STORE_S):
                return await self._received(application, secret, body, signature)
        except TimeoutError:
            return Received(503, "the ledger did not answer in time")

    async def _received(self, application: str, secret: str, body: bytes, signature: str | None) -> Received:
        queue = self._queue
        notice = read(body, signature=signature, secret=secret, now=queue._now())
        if isinstance(notice, Received):
            return notice
        if isinstance(notice, MailNotice):
            return await self._groups.apply(notice, application)
        if isinstance(queue, SendQueue):
            return await asyncio.to_thread(apply, queue, notice, application)
        return await apply_async(queue, notice, application)


async def _say(send: Send, answer: Received, *more: tuple[bytes, bytes]) -> None:
    body = answer.says.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),  # a challenge is text from outside
        *more,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
