"""HTTP clients for Python, each making the same calls: sendq's own, and those it could be built on.

    python -m benchmarks.http_clients NAME calls URL CALLS IN_FLIGHT | cancel PORT

``calls`` prints the CPU per call and the peak memory as JSON. ``cancel`` cancels a call during its TLS handshake, and
then stays until its stdin is closed: what it still writes is what a caller who gave up does not know about. It trusts
the CAs in ``SSL_CERT_FILE``, and imports only the client that is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from pathlib import Path

import uvloop

from benchmarks.queues.role import Letter

# The limits of `tasks.calling.nylas`.
CONNECT_S, READ_S, IDLE_S = 10.0, 150.0, 4.0
KEY = "nyk_benchmark"

Send = Callable[[str, Letter], Awaitable[int]]  # the API's address; returns the status


def headers(letter: Letter) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Idempotency-Key": letter.id}


def path(letter: Letter) -> str:
    return f"/v3/grants/{letter.grant}/messages/send"


def with_aiohttp(in_flight: int) -> Send:
    """The least that aiohttp can be asked for."""
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=READ_S),
    )

    async def send(api: str, letter: Letter) -> int:
        async with session.post(api + path(letter), data=letter.body.encode(), headers=headers(letter)) as answer:
            await answer.read()
            return answer.status

    return send


def with_sendq(in_flight: int) -> Send:
    """sendq's client: aiohttp, with bounded answers, two limits and a fault for each way to fail."""
    from tasks.calling.nylas import NylasClient

    client = NylasClient(limit=in_flight)

    class Api:
        api_uri = ""

        def api_key(self) -> str:
            return KEY

    application = Api()

    async def send(api: str, letter: Letter) -> int:
        application.api_uri = api
        answer = await client.send(application, letter.grant, letter.body.encode(), letter.id)
        return answer.status or 0

    return send


def with_pyreqwest(in_flight: int) -> Send:
    """Rust's reqwest, with an answer that is read piece by piece."""
    from pyreqwest.client import ClientBuilder

    limits = {"connect": timedelta(seconds=CONNECT_S), "total": timedelta(seconds=CONNECT_S + READ_S)}
    client = (
        ClientBuilder().no_proxy().follow_redirects(False).gzip(False).brotli(False).zstd(False).deflate(False)
        .connect_timeout(limits["connect"]).pool_idle_timeout(timedelta(seconds=IDLE_S)).build()
    )  # fmt: skip

    async def send(api: str, letter: Letter) -> int:
        request = client.post(api + path(letter)).headers(headers(letter)).timeout(limits["total"])
        async with request.body_bytes(letter.body.encode()).build_streamed() as answer:
            while await answer.body_reader.read_chunk() is not None:
                pass
            return int(answer.status)

    return send


def with_httpx(in_flight: int) -> Send:
    """httpx on httpcore."""
    import httpx

    client = httpx.AsyncClient(
        limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight, keepalive_expiry=IDLE_S),
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        trust_env=False,
        verify=ssl.create_default_context(),
    )

    async def send(api: str, letter: Letter) -> int:
        answer = await client.post(api + path(letter), content=letter.body.encode(), headers=headers(letter))
        return int(answer.status_code)

    return send


CLIENTS: dict[str, Callable[[int], Send]] = {
    "aiohttp": with_aiohttp,
    "sendq": with_sendq,
    "pyreqwest": with_pyreqwest,
    "httpx": with_httpx,
}


async def calls(name: str, api: str, total: int, in_flight: int) -> dict[str, float]:
    """CPU in ms per call while ``in_flight`` are on the wire, without the first and the last of them."""
    send = CLIENTS[name](in_flight)
    numbers, done = iter(range(total)), count(1)
    readings: dict[int, tuple[float, float]] = {}
    begin, end = 2 * in_flight, total - in_flight

    async def work() -> None:
        for number in numbers:
            status = await send(api, Letter(number))
            if status != 200:
                raise RuntimeError(f"the API answered {status}")
            if (finished := next(done)) in (begin, end):
                readings[finished] = time.process_time(), time.monotonic()

    await asyncio.gather(*(work() for _ in range(in_flight)))
    cpu, seconds = (after - before for before, after in zip(readings[begin], readings[end], strict=True))
    return {
        "cpu_ms": round(cpu / (end - begin) * 1000, 3),
        "per_s": round((end - begin) / seconds),
        "peak_memory_mb": round(peak_memory_mb()),
    }


def peak_memory_mb() -> float:
    """Of this process. (``ru_maxrss`` is no less than that of the process that started it.)"""
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e6


async def cancel(name: str, port: int) -> None:
    """Call ``port``, cancel when it has the first bytes of the handshake (a line on stdin says so), and stay."""
    call = asyncio.ensure_future(CLIENTS[name](1)(f"https://127.0.0.1:{port}", Letter(0)))
    await asyncio.to_thread(sys.stdin.readline)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    print("cancelled", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    name, what, *rest = sys.argv[1:]
    if what == "calls":
        print(json.dumps(uvloop.run(calls(name, rest[0], int(rest[1]), int(rest[2])))))
    else:
        asyncio.run(cancel(name, int(rest[0])))
    sys.stdout.flush()
