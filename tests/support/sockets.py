"""A server on a test's own event loop that leaves no connection behind."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that runs ``behave`` for each connection; those that are open at the end are broken off."""
    writers: list[asyncio.StreamWriter] = []
    served: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)  # by the client's port
    ending = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        served[writer.get_extra_info("peername")[1]].set()
        if not ending:
            await behave(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        ending = True
        if tls is None:
            await _all_served(port, served)
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def _all_served(port: int, served: Mapping[int, asyncio.Event]) -> None:
    """Wait until each connection that was made is served.

    A client may have a connection and be gone some iterations of the event loop before the server serves it. If the
    loop ended between, nothing would close that socket. Connections are served in order, so one more shows the end.
    """
    _, last = await asyncio.open_connection("127.0.0.1", port)
    await served[last.get_extra_info("sockname")[1]].wait()
    last.transport.abort()
