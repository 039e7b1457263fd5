"""TLS for servers without it: a proxy that terminates TLS, with a certificate of the test.

    python -m tests.support.tls CERTIFICATE KEY TARGET [asks-first]     prints its port

The client's side is real, with handshake and verification; the redis-server and PostgreSQL in the wheels are built
without TLS. PostgreSQL clients first ask unencrypted whether they may start TLS, and get a yes here (``asks-first``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]


@contextmanager
def tls_proxy(target: str, certificate: tuple[Path, Path], *, asks_first: bool = False) -> Iterator[int]:
    """A port on 127.0.0.1 that accepts TLS and forwards to ``target``: host:port, or the path of a socket."""
    more = ["asks-first"] if asks_first else []
    command = [sys.executable, "-m", "tests.support.tls", *map(str, certificate), target, *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()


async def serve(certificate: str, key: str, target: str, *, asks_first: bool) -> None:
    """Accept connections for ever."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asks_first:
            await reader.readexactly(8)  # SSLRequest: its length, and the code 80877103
            writer.write(b"S")
            await writer.start_tls(context)
        host, _, port = target.rpartition(":")
        reach = asyncio.open_connection(host, int(port)) if host else asyncio.open_unix_connection(target)
        answers, server = await reach
        await asyncio.gather(_pass_on(reader, server), _pass_on(answers, writer))

    listener = await asyncio.start_server(take, "127.0.0.1", 0, ssl=None if asks_first else context)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], asks_first="asks-first" in sys.argv[4:]))
