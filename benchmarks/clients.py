"""Compares HTTP clients for Python: the CPU of one call, and whether a cancelled call is over.

    ./dev bench clients [--rounds 3] [--calls 6000] [--in-flight 500]

Each client makes the calls of a worker's sends without a queue: bodies of 2 KB over TLS with keep-alive, to an API that
answers after 200 ms. The client has one core and the API the other. Each round runs every client once, so that other
load on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import reporting
from benchmarks.certificate import write_certificate
from benchmarks.contest import OTHERS_CORE, WORKERS_CORE
from benchmarks.contestants import PYTHON, ROOT
from benchmarks.http_clients import CLIENTS
from benchmarks.peers import at_least_one
from benchmarks.stage import on_core, wait_until
from worker.processes.guard import Guarded

LATENCY_S = 0.2
BASE = "aiohttp"  # to which the others are compared

# A client that needs longer for its calls is far too slow at this many in flight.
CLIENT_LIMIT_S = 90.0

# How long a cancelled call is watched. A handshake takes milliseconds.
WATCHED_S = 2.0


def main(arguments: list[str]) -> int:
    """Exit status 1 if sendq's client could not be measured, or writes after it was cancelled."""
    parser = argparse.ArgumentParser(prog="./dev bench clients", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=3)
    parser.add_argument("--calls", type=at_least_one, default=6_000, help="of each client and round")
    parser.add_argument("--in-flight", type=at_least_one, default=500, help="calls at once; fewer than a third of them")
    parser.add_argument("--report", type=Path, default=reporting.RESULTS, metavar="DIRECTORY")
    given = parser.parse_args(arguments)
    if given.calls <= 3 * given.in_flight:
        parser.error("--calls: too few to measure between the first and the last that are in flight")
    with tempfile.TemporaryDirectory(prefix="sendq-bench-") as at, _api(Path(at)) as (address, environment):
        runs, not_run = _measure_all(given, address, environment)
    written = {name: asyncio.run(written_after_cancel(name)) for name in runs}
    lines = markdown(runs, not_run, written, given)
    (given.report / "clients.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0 if "sendq" in runs and not written["sendq"] else 1


def _python(name: str) -> str:
    """sendq's client needs this environment; the others are in that of the compared queues."""
    return sys.executable if name == "sendq" else PYTHON


@contextlib.contextmanager
def _api(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of the API, and the environment of clients that trust it."""
    certificate, key = write_certificate(home)
    log = home / "api.log"
    with on_core(OTHERS_CORE):
        api = Guarded(
            [sys.executable, "-m", "benchmarks.standin", home / "marks", str(LATENCY_S), certificate, key], log=log
        )
    try:
        wait_until(lambda: log.read_text().startswith("http"), api, log)
        yield (
            log.read_text().strip(),
            {**os.environ, "PYTHONPATH": str(ROOT), "SSL_CERT_FILE": str(certificate), "PEER_LANES": "1000"},
        )
    finally:
        api.stop()


def _measure_all(
    given: argparse.Namespace, address: str, environment: dict[str, str]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """The runs of each client, and why others have none."""
    runs: dict[str, list[dict[str, Any]]] = {}
    not_run: dict[str, str] = {}
    for _ in range(given.rounds):
        for name in CLIENTS:
            if name in not_run:
                continue
            command = [
                _python(name), "-m", "benchmarks.http_clients", name, "calls",
                address, str(given.calls), str(given.in_flight),
            ]  # fmt: skip
            try:
                with on_core(WORKERS_CORE):
                    done = subprocess.run(
                        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=CLIENT_LIMIT_S
                    )
                if done.returncode:
                    raise RuntimeError(done.stderr.strip().splitlines()[-1])
                runs.setdefault(name, []).append(json.loads(done.stdout))
                print(f"{name}: {done.stdout.strip()}", file=sys.stderr, flush=True)
            except (RuntimeError, subprocess.TimeoutExpired) as why:
                runs.pop(name, None)
                slow = isinstance(why, subprocess.TimeoutExpired)
                not_run[name] = f"not done with its calls within {CLIENT_LIMIT_S:g} s" if slow else str(why)
    return runs, not_run


async def written_after_cancel(name: str) -> bool:
    """Whether a client writes its request although the call was cancelled before the handshake was over."""
    with tempfile.TemporaryDirectory(prefix="sendq-bench-") as at:
        certificate, key = write_certificate(Path(at))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
        called, cancelled, written = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            called.set()
            await cancelled.wait()  # until then the client waits for the server's part of the handshake
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await writer.start_tls(tls)
                if await reader.read(1):
                    written.set()
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SSL_CERT_FILE": str(certificate), "PEER_LANES": "1000"}
        client = await asyncio.create_subprocess_exec(
            _python(name), "-m", "benchmarks.http_clients", name, "cancel", str(server.sockets[0].getsockname()[1]),
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        await asyncio.wait_for(called.wait(), CLIENT_LIMIT_S)
        client.stdin.write(b"\n")
        await asyncio.wait_for(client.stdout.readline(), CLIENT_LIMIT_S)
        cancelled.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(written.wait(), WATCHED_S)
        client.stdin.close()
        client.kill()
        await client.wait()
        server.close()
        return written.is_set()


def markdown(
    runs: dict[str, list[dict[str, Any]]], not_run: dict[str, str], written: dict[str, bool], given: argparse.Namespace
) -> list[str]:
    """The report's lines: medians, with the least and the most."""
    base = statistics.median(run["cpu_ms"] for run in runs[BASE]) if BASE in runs else None
    rows = []
    for name, each in runs.items():
        cpu = sorted(run["cpu_ms"] for run in each)
        rows.append(
            {
                "client": name,
                "ms CPU a call": f"{statistics.median(cpu):g} ({cpu[0]:g} to {cpu[-1]:g})",
                f"to {BASE}": "-" if base is None else round(statistics.median(cpu) / base, 2),
                "calls/s": round(statistics.median(run["per_s"] for run in each)),
                "peak memory, MB": round(statistics.median(run["peak_memory_mb"] for run in each)),
                "cancelled in its handshake": "**writes its request**" if written[name] else "writes nothing",
            }
        )
    lines = reporting.head("HTTP clients", "./dev bench clients")
    lines += [f"- httpx {_version('httpx')}, pyreqwest {_version('pyreqwest')}"]
    lines += [
        "",
        f"{given.rounds} rounds of {given.calls:,} calls, {given.in_flight} in flight, bodies of 2 KB, over TLS to an "
        f"API that answers after {LATENCY_S * 1000:.0f} ms.",
        "",
        *reporting.table(rows),
    ]
    if not_run:
        lines += reporting.section("Not measured", "", [f"- **{name}**: {why}" for name, why in not_run.items()])
    return lines


def _version(package: str) -> str:
    asked = subprocess.run(
        [PYTHON, "-c", "import sys; from importlib.metadata import version; print(version(sys.argv[1]))", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "missing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
