"""A cheap stand-in for the API: it answers every POST after a delay, and records when each one arrived.

    python -m benchmarks.standin MARKS LATENCY_S [CERTIFICATE KEY]

The simulator imitates the API's behaviour, which takes a millisecond; here only the timing and the protocol are right.
It uses HTTP/1.1 with keep-alive, over TLS if it has a certificate, prints its address, and validates nothing.
"""

from __future__ import annotations

import asyncio
import mmap
import re
import ssl
import struct
import sys
import time
from email.utils import formatdate
from functools import lru_cache
from pathlib import Path
from typing import cast

import uvloop

CALLS = 2_000_000  # that fit into one file of marks; the file is sparse
COUNT, MARK = struct.Struct("q"), struct.Struct("qq")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBER = re.compile(rb"Invoice (\d+)")
_GRANT = re.compile(rb"POST /v3/grants/([^/ ]+)/")

# The API's answer for an accepted message, as far as clients read it; the grant is that of the request.
ANSWER = (
    b'{"request_id":"5967ca40-a2d8-4ee0-a0e0-6f18ace39a90","data":{"object":"message","id":"18f3c2a9b1d4e5f6",'
    b'"grant_id":"grant","thread_id":"18f3c2a9b1d4e5f6","subject":"Invoice","to":[{"email":"leyah@example.com"}],'
    b'"from":[{"email":"nyla@example.com"}],"date":1767864413,"folders":["SENT"],"unread":false,"starred":false,'
    b'"snippet":"xxxxxxxxxxxxxxxxxxxxxxxx","schedule_id":""}}'
)


class Marks:
    """When each call arrived: written by one process and read by another, through a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(COUNT.size + CALLS * MARK.size)
            self._map = mmap.mmap(file.fileno(), 0)

    def add(self, number: int) -> None:
        """Record that the message with this number has arrived now."""
        count = self.count
        MARK.pack_into(self._map, COUNT.size + count * MARK.size, time.monotonic_ns(), number)
        COUNT.pack_into(self._map, 0, count + 1)

    @property
    def count(self) -> int:
        """The number of calls so far."""
        count: int = COUNT.unpack_from(self._map)[0]
        return count

    def at(self, place: int) -> tuple[int, int]:
        """The time (ns of the monotonic clock, shared by all processes) and number of a call, counted from zero."""
        stamp, number = MARK.unpack_from(self._map, COUNT.size + place * MARK.size)
        return stamp, number


def _answer(second: int, grant: bytes) -> bytes:
    body = ANSWER.replace(b'"grant_id":"grant"', b'"grant_id":"%s"' % grant)
    return _head(second, len(body)) + body


@lru_cache(maxsize=16)
def _head(second: int, length: int) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: {formatdate(second, usegmt=True)}\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


class Caller(asyncio.Protocol):
    """One connection; a client that sends its next request before the answer is answered in order."""

    def __init__(self, marks: Marks, latency_s: float) -> None:
        self._marks, self._latency_s, self._received = marks, latency_s, b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's class is no subclass of it

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            stated = _LENGTH.search(self._received, 0, head)
            end = head + 4 + (int(stated[1]) if stated else 0)
            if len(self._received) < end:
                return
            number = _NUMBER.search(self._received, head, end)
            if number is not None:
                self._marks.add(int(number[1]))
            grant = _GRANT.match(self._received)
            self._received = self._received[end:]
            asyncio.get_running_loop().call_later(self._latency_s, self._say, grant[1] if grant else b"grant")

    def _say(self, grant: bytes) -> None:
        if self._transport is not None:
            self._transport.write(_answer(int(time.time()), grant))


async def serve(marks: Marks, latency_s: float, certificate: list[str]) -> None:
    """Serve until the process ends."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
    if tls is not None:
        tls.load_cert_chain(*certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Caller(marks, latency_s), "127.0.0.1", 0, ssl=tls, backlog=2_000)
    scheme, port = "https" if tls else "http", server.sockets[0].getsockname()[1]
    print(f"{scheme}://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Marks(Path(sys.argv[1])), float(sys.argv[2]), sys.argv[3:]))
