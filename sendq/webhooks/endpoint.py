"""`asgi`: a ready application for Nylas webhooks, to serve by itself or to mount in FastAPI, Starlette and the like.

It reads no more of a body than a notification can have, waits for none longer than Nylas waits for an answer, and
answers with a length and in one piece: the activation does not accept chunks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from sendq.enqueueing.planning import DEFAULT_APPLICATION
from sendq.queue import SendQueue
from sendq.webhooks.notice import BODY_MOST, TOO_LARGE, Received, challenge
from sendq.webhooks.receiving import receive, receive_async

if TYPE_CHECKING:
    from sendq.async_queue import AsyncSendQueue

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

# Nylas takes an answer after 10 s for none. Reading and storing get less than half of that each.
READ_S = 4.0
STORE_S = 4.0

_log = logging.getLogger("sendq.webhooks")


def asgi(
    queue: SendQueue | AsyncSendQueue,
    *,
    secret: str | Mapping[str, str],
    application: str = DEFAULT_APPLICATION,
    path: str = "/",
) -> Application:
    """An ASGI application that takes in the webhooks of Nylas.

    With one ``secret`` it answers at ``path`` for ``application``. With a mapping of applications to their secrets it
    answers at ``path/NAME`` for each, and at ``path`` itself for the one called ``default``. Paths are those below the
    place where it is mounted; Starlette redirects the place itself (``/hooks``), so give Nylas ``/hooks/``. Each
    request is logged as ``sendq.webhooks``: status and sentence, nothing of its body.

    Raises ``ValueError`` if a secret is empty, or there is none.
    """
    base = path.strip("/")
    if isinstance(secret, str):
        doors = {base: (application, secret)}
    else:
        doors = {f"{base}/{name}".strip("/"): (name, one) for name, one in secret.items()}
        if DEFAULT_APPLICATION in secret:
            doors[base] = (DEFAULT_APPLICATION, secret[DEFAULT_APPLICATION])
    if not doors or not all(one for _, one in doors.values()):
        raise ValueError("secret: it is empty, and with that anybody could sign; give the webhook's secret")

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await _answer(queue, doors, scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return serve


async def _live(receive: Receive, send: Send) -> None:
    """Nothing is opened at start, and the queue is its owner's to close."""
    while True:
        asked = (await receive())["type"]
        await send({"type": f"{asked}.complete"})
        if asked == "lifespan.shutdown":
            return


async def _answer(
    queue: SendQueue | AsyncSendQueue,
    doors: Mapping[str, tuple[str, str]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    door = doors.get(_path_below(scope))
    if door is None:
        await _say(send, Received(404, "no application has its webhook here"))
    elif scope["method"] == "GET":
        await _echo(scope, send)
    elif scope["method"] == "POST":
        await _take_in(queue, door, scope, receive, send)
    else:
        await _say(send, Received(405, "a webhook takes GET and POST"), (b"allow", b"GET, POST"))


def _path_below(scope: Scope) -> str:
    """The path below the mount. Some servers and frameworks leave the mount's own path in front of it, some do not."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path.strip("/")


async def _echo(scope: Scope, send: Send) -> None:
    value = challenge(scope.get("query_string", b"").decode(errors="replace"))
    if value is None:
        await _say(send, Received(400, "this is a webhook of Nylas: it answers a challenge, and takes notifications"))
    else:
        await _say(send, Received(200, value))


async def _take_in(
    queue: SendQueue | AsyncSendQueue, door: tuple[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    application, secret = door
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    body = await _body(headers, receive)
    if body is None:
        return  # whoever asked is gone
    if isinstance(body, Received):
        answer = body
    else:
        answer = await _stored(queue, application, secret, body, headers.get(b"x-nylas-signature"))
    _log.log(
        logging.INFO if answer.status == 200 else logging.WARNING,
        "webhook of %s: %d, %s", application, answer.status, answer.says,
    )  # fmt: skip
    # Servers read on for the rest of a body that we left, to its end, unless they are told to hang up.
    hang_up = answer.status in (408, 413) and scope.get("http_version", "1.1").startswith("1")
    await _say(send, answer, *([(b"connection", b"close")] if hang_up else []))


async def _body(headers: Mapping[bytes, str], receive: Receive) -> bytes | Received | None:
    """The whole body, as far as it is one that we take; None if the other side left in the middle of it."""
    announced = headers.get(b"content-length", "0")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > BODY_MOST:
        return TOO_LARGE
    body = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    return None
                body += event.get("body", b"")
                if len(body) > BODY_MOST:
                    return TOO_LARGE
                if not event.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return Received(408, "the notification did not arrive in time")


async def _stored(
    queue: SendQueue | AsyncSendQueue, application: str, secret: str, body: bytes, signature: str | None
) -> Received:
    """What `receive` says, if it says so in time. If it commits all the same, the repeat is a duplicate."""
    try:
        async with asyncio.timeout(STORE_S):
            if isinstance(queue, SendQueue):
                return await asyncio.to_thread(
                    receive, queue, secret=secret, raw_body=body, signature=signature, application=application
                )
            return await receive_async(
                queue, secret=secret, raw_body=body, signature=signature, application=application
            )
    except TimeoutError:
        return Received(503, "the ledger did not answer in time")


async def _say(send: Send, answer: Received, *more: tuple[bytes, bytes]) -> None:
    body = answer.says.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),  # a challenge is somebody else's text
        *more,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
