"""Flower for a test, in its own process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.system import ROOT, System
from tests.support.waiting import LIMIT_S, eventually


@dataclass(frozen=True)
class Flower:
    """A running Flower; call it with a path to query its API."""

    url: str

    def __call__(self, path: str) -> Any:
        """The answer: parsed JSON, or the text of its metrics; None if there is none."""
        with suppress(OSError), urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
            return answer.read().decode() if path == "/metrics" else json.load(answer)
        return None

    def post(self, path: str) -> tuple[int, str]:
        """Press a button: the status and the text of the answer."""
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", data=b""), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def worker(self, **wanted: int) -> dict[str, Any]:
        """The worker as Flower knows it from events, once it has these numbers, else {}. Early events are missed."""
        found = (self("/workers?json=1") or {"data": []})["data"]
        return next((one for one in found if wanted.items() <= one.items()), {})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def child(command: list[str], environ: dict[str, str], log: Path, cwd: Path = ROOT) -> Iterator[None]:
    """A process that ends with the block."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environ, cwd=cwd, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT_S)
        process.kill()
        process.wait(LIMIT_S)


@contextmanager
def flower(system: System, **options: str) -> Iterator[Flower]:
    """Flower beside the system, once it answers. ``options`` are environment variables."""
    port = free_port()
    environ = system.environ(FLOWER_UNAUTHENTICATED_API="true", **options)
    command = [sys.executable, "-m", "celery", "-A", "worker", "flower", "--address=127.0.0.1", f"--port={port}"]

    with child(command, environ, system.directory / "flower.log"):
        ask = Flower(f"http://127.0.0.1:{port}")
        eventually(lambda: ask("/api/task/types") is not None, "Flower's first answer")
        yield ask
