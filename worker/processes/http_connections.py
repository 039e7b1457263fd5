"""Connections to an HTTP server that anyone can reach: no client may keep others from being served.

uvicorn limits connections and requests together (``limit_concurrency``), and waits for the headers of a request as long
as it takes: a hundred connections that send nothing would close the server. Here a connection on which no request is
being answered is closed after `HEADERS_S`; when there are too many, the one that has waited longest is closed; and only
requests are counted.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sendq.webhooks.endpoint import Application, Receive, Send

# A proxy or Nylas sends the headers at once.
HEADERS_S = 5.0

CONNECTIONS_MOST = 20_000

# File descriptors that are not for connections: the ledger, logs, the listener.
OTHER_FILES = 100


class Waiting:
    """The connections on which no request is being answered, in the order in which they began to wait."""

    def __init__(self, most: int) -> None:
        """``most``: of all connections."""
        self._most = most
        self._since: dict[Connection, asyncio.TimerHandle] = {}

    def begin(self, connection: Connection) -> None:
        """It waits for the headers of a request; nothing if it does so already."""
        if connection not in self._since:
            timer = connection.loop.call_later(HEADERS_S, connection.give_up)
            self._since[connection] = timer

    def end(self, connection: Connection) -> None:
        """A request has begun, or the connection is closed."""
        timer = self._since.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def make_room(self, connections: int) -> None:
        """Close the one that has waited longest, if there are more connections than allowed."""
        if connections > self._most and self._since:
            next(iter(self._since)).give_up()


class Connection(H11Protocol):
    """uvicorn's connection with a time limit for headers."""

    waiting = Waiting(CONNECTIONS_MOST)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting.begin(self)
        self.waiting.make_room(len(self.connections))

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.end(self)
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close it without an answer."""
        self.waiting.end(self)
        self.transport.abort()

    def _note(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.is_closing():
            self.waiting.end(self)
        else:
            self.waiting.begin(self)


def connection_class() -> type[Connection]:
    """`Connection` for one server: as many as this process may have files open, which is raised to the maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # macOS names a maximum that it does not allow
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    files = CONNECTIONS_MOST if soft == resource.RLIM_INFINITY else soft - OTHER_FILES

    class Limited(Connection):
        waiting = Waiting(max(1, min(CONNECTIONS_MOST, files)))

    return Limited


def server_config(application: Application, *, grace_s: int, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    """How a server serves. ``grace_s``: how long requests may take to end when it stops."""
    return uvicorn.Config(
        application,
        http=connection_class(),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # applications themselves decide which proxies they believe
        lifespan=lifespan,
        ws="none",
        timeout_graceful_shutdown=grace_s,
    )


def limited(application: Application, *, requests: int) -> Application:
    """``application``, with status 503 for requests while it answers as many as allowed."""
    answering = 0

    async def serve(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        nonlocal answering
        if scope["type"] != "http":  # the lifespan is no request
            await application(scope, receive, send)
            return
        if answering >= requests:
            headers = [(b"content-length", b"0"), (b"retry-after", b"10"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        answering += 1
        try:
            await application(scope, receive, send)
        finally:
            answering -= 1

    return serve
