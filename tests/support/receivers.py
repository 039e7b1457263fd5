"""Receivers of outcomes: a web server that records requests and misbehaves on request, and a Celery application."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from sendq.outcomes import BadOutcome, verify
from tests.support.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + base64.b64encode(b"the secret of the tests' receivers").decode()


@dataclass(frozen=True)
class Heard:
    """One request to a receiver: the outcome, or None if it is not from sendq."""

    at: float
    path: str
    raw: bytes
    headers: dict[str, str]
    outcome: dict[str, Any] | None


@dataclass
class Receiver:
    """A web server on a free port. ``status`` is its answer; with ``hangs`` it never answers."""

    status: int = 200
    hangs: bool = False
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"thank you"
    port: int = 0
    heard: list[Heard] = field(default_factory=list)
    refuses: frozenset[str] = frozenset()  # kinds that are answered with 500
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def taken_in(self) -> Counter[tuple[str, str]]:
        """How often it received each (job or batch, kind)."""
        said = [one.outcome for one in self.heard if one.outcome is not None]
        return Counter((one.get("job_id") or one.get("batch_id") or one["grant_id"], one["kind"]) for one in said)

    def kinds(self, job: str) -> list[str]:
        """The kinds it received for a job, in order."""
        return [
            one.outcome["kind"] for one in self.heard if one.outcome is not None and one.outcome.get("job_id") == job
        ]

    async def take(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            outcome = verify(raw, request.headers, secret=SECRET)
        except BadOutcome:
            outcome = None
        self.heard.append(Heard(time.monotonic(), request.path, raw, dict(request.headers), outcome))
        if self.hangs:
            await asyncio.sleep(3600)
        refused = outcome is not None and outcome["kind"] in self.refuses
        return web.Response(status=500 if refused else self.status, body=self.answer, headers=self.answer_headers)


@contextmanager
def receiving(receiver: Receiver | None = None, *, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that is listening."""
    it = receiver or Receiver()
    if tls is not None:
        it.scheme = "https"
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", it.take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", it.port, ssl_context=tls)
        await site.start()
        it.port = runner.addresses[0][1]
        ready.set()
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(end(runner))
        loop.close()

    async def end(runner: web.AppRunner) -> None:
        await runner.cleanup()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield it
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)


class ForeignApplication:
    """Another Celery application with one task, ``foreign.tasks.heard``, in its own worker process."""

    task = "foreign.tasks.heard"

    def __init__(self, broker_url: str, directory: Path, *queues: str) -> None:
        self.broker_url = broker_url
        self.file = directory / "heard.jsonl"
        self.log = directory / "foreign.log"
        module = directory / "foreign_application.py"
        module.write_text(_FOREIGN)
        environ = {
            **os.environ,
            "PYTHONPATH": str(directory),
            "FOREIGN_BROKER": broker_url,
            "FOREIGN_FILE": str(self.file),
        }
        command = [sys.executable, "-m", "celery", "-A", "foreign_application", "worker", "-P", "solo"]
        command += ["--without-gossip", "--without-mingle", *(["-Q", ",".join(queues)] if queues else [])]
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(command, env=environ, cwd=directory, stdout=stream, stderr=stream)

    def heard(self) -> list[dict[str, Any]]:
        """The outcomes that its task was called with, each with the queue and the task's id."""
        if not self.file.exists():
            return []
        written, _, _being_written = self.file.read_text().rpartition("\n")
        return [json.loads(line) for line in written.splitlines()]

    def taken_in(self) -> Counter[tuple[str, str]]:
        """How often it received each (job, kind)."""
        return Counter((one["job_id"], one["kind"]) for one in self.heard())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)


_FOREIGN = """
import json, os
from celery import Celery

app = Celery("foreign", broker=os.environ["FOREIGN_BROKER"])
app.conf.update(worker_hijack_root_logger=False, task_ignore_result=True)

@app.task(name="foreign.tasks.heard", bind=True)
def heard(self, outcome):
    with open(os.environ["FOREIGN_FILE"], "a") as file:
        queue = self.request.delivery_info["routing_key"]
        print(json.dumps(outcome | {"task_id": self.request.id, "queue": queue}), file=file)
"""
