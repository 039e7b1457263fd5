"""A TCP proxy between a process and its server that misbehaves on request.

    process ──▶ Proxy ──▶ server          with Proxy("127.0.0.1", 5432) as proxy:
            ◀──       ◀──                     engine = open_engine(proxy.in_place_of(url))

The modes, each of which applies at once to existing and new connections:

    forward   everything passes
    delay     everything passes, in both directions, each piece after a number of seconds
    drip      requests pass at once, answers byte by byte with a pause after each
    freeze    nothing passes and nothing is lost, as if the server or the network were frozen; later it continues
    swallow   requests reach the server, its answers are discarded; the connections are closed when the mode ends,
              because the next answer would be taken for the lost one
    cut       connections are reset, including new ones

`break_off` resets all connections once. `lose_answer_to` waits for a request with the given bytes, lets the server
execute it, and resets the connection instead of passing on the answer: a COMMIT that succeeds unacknowledged.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tests.support.waiting import LIMIT_S

T = TypeVar("T")
PIECE_BYTES = 65536


# PostgreSQL's messages Parse (name and text of a statement) and Bind (which of them is executed).
_PREPARES = re.compile(rb"P.{4}(sendq_\d+)\0([^\0]*)\0", re.DOTALL)
_EXECUTES = re.compile(rb"B.{4}\0(sendq_\d+)\0", re.DOTALL)


class Mode(Enum):
    """What happens to the traffic."""

    FORWARD = "forward"
    FREEZE = "freeze"
    SWALLOW = "swallow"
    CUT = "cut"


@dataclass(eq=False)
class _Connection:
    """One client, its connection to the server, and the state of both."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    swallowed: bool = False  # an answer was lost: the next one would be taken for it
    doomed: bool = False  # its next answer is the one to lose
    sent_after: bool = False  # it sent `Loss.after` since the last matching request
    prepared: dict[bytes, bytes] = field(default_factory=dict)  # statements by the name that PostgreSQL got for each


@dataclass(eq=False)
class Loss:
    """An answer to lose; ``happened`` is set when it was lost."""

    to: bytes
    after: bytes
    left: int
    happened: threading.Event


class Proxy:
    """Listens on a free port of 127.0.0.1 during the ``with`` block. Thread-safe."""

    def __init__(self, host: str | None = None, port: int = 0, *, unix: Path | None = None) -> None:
        """In front of ``host:port``, or of the unix socket ``unix``."""
        self._target, self._unix = (host, port), unix
        self._mode, self._delay_s, self._drip_s = Mode.FORWARD, 0.0, 0.0
        self._connections: set[_Connection] = set()
        self._losses: list[Loss] = []
        self._moving = asyncio.Event()
        self._moving.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0
        self.connects = 0  # connection attempts so far

    # --- for tests ------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """The current mode."""
        return self._mode

    def forward(self) -> None:
        """Let everything pass at once."""
        self._switch(Mode.FORWARD)

    def delay(self, seconds: float) -> None:
        """Let everything pass, in both directions, each piece delayed by ``seconds``."""
        self._switch(Mode.FORWARD, delay_s=seconds)

    def drip(self, seconds: float) -> None:
        """Let answers pass one byte per ``seconds``."""
        self._switch(Mode.FORWARD, drip_s=seconds)

    def freeze(self) -> None:
        """Let nothing pass until the mode changes."""
        self._switch(Mode.FREEZE)

    def swallow(self) -> None:
        """Discard answers."""
        self._switch(Mode.SWALLOW)

    def cut(self) -> None:
        """Reset all connections, including new ones."""
        self._switch(Mode.CUT)

    def break_off(self) -> int:
        """Reset all current connections; returns how many there were."""
        return self._do(self._reset_all())

    def lose_answer_to(self, request: bytes, *, after: bytes = b"", times: int = 1) -> Loss:
        """Lose the answers to the next ``times`` requests that contain these bytes, and reset their connections.

        ``after``: only on a connection that has sent these bytes since its last such request (for example ``COMMIT`` of
        a transaction that wrote ``sendq_attempt``), or has executed a prepared statement with them.
        """
        loss = Loss(request, after, times, threading.Event())
        self._do(self._arm(loss))
        return loss

    def in_place_of(self, url: str) -> str:
        """The URL with this proxy in place of its host and port."""
        parts = urlsplit(url)
        who = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{who}127.0.0.1:{self.port}"))

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._switch(Mode.CUT)
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()

    # --- on the loop ------------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def _switch(self, mode: Mode, *, delay_s: float = 0.0, drip_s: float = 0.0) -> None:
        async def switch() -> None:
            self._mode, self._delay_s, self._drip_s = mode, delay_s, drip_s
            if mode is Mode.FREEZE:
                self._moving.clear()
            else:
                self._moving.set()
            for connection in list(self._connections):
                if mode is Mode.CUT or (connection.swallowed and mode is not Mode.SWALLOW):
                    _reset(connection)

        self._do(switch())

    async def _reset_all(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            _reset(connection)
        return len(connections)

    async def _arm(self, loss: Loss) -> None:
        self._losses.append(loss)

    async def _close(self) -> None:
        for listening in self._server.sockets:  # not closed yet: asyncio fails on a connection that is just arriving
            self._loop.remove_reader(listening.fileno())
        while tasks := asyncio.all_tasks(self._loop) - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=LIMIT_S)  # not cancelled: a task that never began would close nothing
        for _ in range(3):
            await asyncio.sleep(0)  # a socket is closed one loop iteration after its transport
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            await self._thawed()
            if self._mode is Mode.CUT:
                return
            server_reader, connection.server = await self._dial()
            # The end of one direction ends both: no half-closed connections are used here.
            pumps = [
                asyncio.ensure_future(self._pump(reader, connection.server, connection, asks=True)),
                asyncio.ensure_future(self._pump(server_reader, writer, connection, asks=False)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the server is down, so this client is disconnected
        finally:
            self._connections.discard(connection)
            _reset(connection)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._unix is not None:
            return await asyncio.open_unix_connection(self._unix)
        return await asyncio.open_connection(*self._target)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, connection: _Connection, *, asks: bool
    ) -> None:
        while piece := await source.read(PIECE_BYTES):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._thawed()
            if asks:
                self._look_for_losses(connection, piece)
            elif connection.doomed:
                return
            elif self._mode is Mode.SWALLOW:
                connection.swallowed = True
                continue
            if self._drip_s and not asks:
                await self._drop_by_drop(piece, sink)
                continue
            sink.write(piece)
            await sink.drain()

    async def _drop_by_drop(self, piece: bytes, sink: asyncio.StreamWriter) -> None:
        for place in range(len(piece)):
            if not self._drip_s:  # switched off meanwhile: send the rest at once
                sink.write(piece[place:])
                break
            sink.write(piece[place : place + 1])
            await asyncio.sleep(self._drip_s)
        await sink.drain()

    def _look_for_losses(self, connection: _Connection, piece: bytes) -> None:
        connection.prepared.update(_PREPARES.findall(piece))
        texts = [piece, *(connection.prepared.get(name, b"") for name in _EXECUTES.findall(piece))]
        for loss in self._losses:
            connection.sent_after = connection.sent_after or any(loss.after in text for text in texts)
            if loss.to in piece:
                if connection.sent_after and loss.left:
                    loss.left -= 1
                    connection.doomed = True
                    loss.happened.set()
                connection.sent_after = False

    async def _thawed(self) -> None:
        await self._moving.wait()


def _reset(connection: _Connection) -> None:
    """Send RST, not FIN, as when a machine disappears or a firewall drops the connection."""
    for writer in (connection.client, connection.server):
        if writer is None:
            continue
        with suppress(OSError, AttributeError):
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
