"""The receiver of webhooks as a server, on a socket and as a command."""

from __future__ import annotations

import gzip
import http.client
import os
import resource
import signal
import socket
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sendq import AsyncSendQueue, SendQueue
from sendq.clock import now as wall
from sendq.facts.notices import USUAL
from sendq.webhooks import BODY_MOST, asgi
from sendq.webhooks.endpoint import Application
from tests.integration.ledger.test_webhooks import SECRET, envelope, signed
from tests.support.ledger import MESSAGE, Ledger
from tests.support.processes import Running, running
from tests.support.waiting import LIMIT_S, eventually
from worker.processes.http_connections import HEADERS_S
from worker.processes.webhooks import receiver


@pytest.fixture
def waiting(ledger: Ledger) -> Ledger:
    """A ledger with a lane for g1, in which a job waits."""
    ledger.send("g1")
    ledger.absorb()
    ledger.clock.advance(3600)
    return ledger


class Served:
    """A server on a real socket."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str = "/", body: Any = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()

    def post(self, body: bytes, path: str = "/", secret: str = SECRET) -> int:
        return self.ask("POST", path, body, x_nylas_signature=signed(body, secret))[0].status


@contextmanager
def served(application: Application) -> Iterator[Served]:
    """Run an application under uvicorn in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, ws="none", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started, "uvicorn serves")
            yield Served(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.fixture(params=["sync", "async"])
def server(request: pytest.FixtureRequest, waiting: Ledger, ledger_url: str) -> Iterator[Served]:
    """The ready application over the ledger, with either queue."""
    if request.param == "sync":
        with served(asgi(waiting.queue, secret=SECRET)) as it:
            yield it
    else:
        queue = AsyncSendQueue(ledger_url, now=waiting.clock)

        application = asgi(queue, secret=SECRET)

        async def closing(scope: Any, receive: Any, send: Any) -> None:
            async def closed_first(event: Any) -> None:
                if event["type"] == "lifespan.shutdown.complete":  # after it the loop ends, and cancels what still runs
                    await queue.close()
                await send(event)

            await application(scope, receive, closed_first)

        with served(closing) as it:
            yield it


class TestOnASocket:
    def test_a_notification_takes_effect(self, server: Served, waiting: Ledger) -> None:
        assert server.post(envelope("grant.expired", waiting.clock(), notice="n1")) == 200
        assert waiting.lane().closed_at is not None
        packed = gzip.compress(envelope("grant.updated", waiting.clock(), notice="n2", reauthentication_flag=True))
        assert server.post(packed) == 200
        assert waiting.lane().closed_at is None

    def test_a_wrong_signature_does_not(self, server: Served, waiting: Ledger) -> None:
        assert server.post(envelope("grant.expired", waiting.clock()), secret="other") == 401
        assert server.ask("POST", "/", envelope("grant.expired", waiting.clock()))[0].status == 401
        assert waiting.lane().closed_at is None

    def test_the_challenge_comes_back_in_one_piece(self, server: Served) -> None:
        answer, said = server.ask("GET", "/?challenge=" + urllib.parse.quote("a b/ü"))
        assert (answer.status, said) == (200, "a b/ü")
        assert answer.headers["content-length"] == str(len(said.encode()))
        assert answer.headers["transfer-encoding"] is None

    def test_a_stream_that_does_not_end_is_cut_off(self, server: Served) -> None:
        sent = 0

        def stream() -> Iterator[bytes]:
            nonlocal sent
            while sent < 100 * BODY_MOST:
                sent += 65_536
                yield b" " * 65_536

        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # we still write when it hangs up
            server.ask("POST", "/", stream(), x_nylas_signature="0" * 64)
        assert sent < 50 * BODY_MOST

    def test_it_can_be_mounted(self, waiting: Ledger) -> None:
        inner = asgi(waiting.queue, secret=SECRET)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope | {"root_path": "/hooks/nylas"}, receive, send)

        with served(outer) as mounted:
            body = envelope("grant.expired", waiting.clock())
            assert mounted.post(body, "/hooks/nylas") == 200
            assert mounted.post(body, "/hooks/nylas/") == 200
            assert mounted.post(body, "/hooks") == 404
        assert waiting.lane().closed_at is not None


def test_an_answer_is_given_though_the_ledger_hangs(sqlite_ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sendq.webhooks.endpoint.STORE_S", 0.1)
    queue = SendQueue(sqlite_ledger_url)
    queue.send("g1", MESSAGE)
    body = envelope("grant.expired", wall())
    blocker = sqlite3.connect(sqlite_ledger_url.removeprefix("sqlite:///"), check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        with served(asgi(queue, secret=SECRET)) as it:
            assert it.post(body) == 503
            blocker.rollback()
            eventually(lambda: it.post(body) == 200, "the ledger answers again")
    finally:
        blocker.close()
        queue.close()


def test_requests_of_links_leave_room_for_notifications(
    sqlite_ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.processes.webhooks.REQUESTS_MOST", 1)
    monkeypatch.setattr("worker.processes.webhooks.LINK_REQUESTS_MOST", 2)
    queue = SendQueue(sqlite_ledger_url)
    queue.send("g1", MESSAGE)
    body = envelope("grant.expired", wall())
    link = b"POST /unsubscribe/x HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n"
    with served(receiver(queue, {"default": SECRET}, USUAL)) as it:
        with ExitStack() as slow:
            for _ in range(2):
                slow.enter_context(socket.create_connection(("127.0.0.1", it.port), timeout=LIMIT_S)).sendall(link)
            eventually(lambda: it.ask("GET", "/unsubscribe/x")[0].status == 503, "no other link is answered")
            assert it.post(body) == 200
        eventually(lambda: it.ask("GET", "/unsubscribe/x")[0].status == 404, "links are answered again")
    queue.close()


@pytest.fixture
def command(sqlite_ledger_url: str, tmp_path: Path) -> Iterator[tuple[Served, Running]]:
    """`sendq webhooks`, as a process."""
    place = tmp_path / "process"
    place.mkdir()
    environ = {"DATABASE_URL": sqlite_ledger_url, "NYLAS_API_KEY": "k", "NYLAS_WEBHOOK_SECRET": SECRET}
    with running(["webhooks", "--port", "0"], place, **environ) as it:
        yield Served(int(it.line_with("default: ").rsplit(":", 1)[1].strip().strip("/"))), it


class TestConnectionsThatSendNothing:
    def test_keep_no_notification_from_being_answered(self, command: tuple[Served, Running]) -> None:
        """10,000 of them, or as many as this process may open."""
        server, _ = command
        alone = answered_in_s(server)
        files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        idle = []
        try:
            for _ in range(min(10_000, files - 200)):
                one = socket.socket()
                idle.append(one)
                one.connect(("127.0.0.1", server.port))
            assert answered_in_s(server) < max(1.0, 20 * alone)
        finally:
            for one in idle:
                one.close()
        assert answered_in_s(server) < max(1.0, 20 * alone)

    @pytest.mark.parametrize(
        "sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n", b"GET /?challenge=a HTTP/1.1\r\nHost: x\r\n\r\n"]
    )
    def test_are_closed_after_a_few_seconds(self, command: tuple[Served, Running], sent: bytes) -> None:
        """At once, in the middle of their headers (a byte now and then is no reprieve), and between two requests."""
        server, _ = command
        with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S) as slow:
            began = time.monotonic()
            slow.sendall(sent)
            slow.settimeout(0.5)
            while time.monotonic() - began < LIMIT_S:
                try:
                    if not slow.recv(1000):
                        break
                except TimeoutError:
                    if sent.startswith(b"POST"):
                        with suppress(OSError):
                            slow.sendall(b"x")
                except ConnectionResetError:
                    break
            assert HEADERS_S - 1 < time.monotonic() - began < LIMIT_S / 2

    def test_make_room_for_others_when_no_more_can_be_opened(self, sqlite_ledger_url: str, tmp_path: Path) -> None:
        place = tmp_path / "process"
        place.mkdir()
        environ = {"DATABASE_URL": sqlite_ledger_url, "NYLAS_API_KEY": "k", "NYLAS_WEBHOOK_SECRET": SECRET}
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with running(["webhooks", "--port", "0"], place, **environ) as it:
            resource.prlimit(it.process.pid, resource.RLIMIT_NOFILE, (200, 200))
            server = Served(int(it.line_with("default: ").rsplit(":", 1)[1].strip().strip("/")))
            idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(300)]
            assert server.ask("GET", "/?challenge=abc")[1] == "abc"
            for one in idle:
                one.close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def answered_in_s(server: Served) -> float:
    began = time.monotonic()
    assert server.post(envelope("grant.expired", wall())) == 200
    return time.monotonic() - began


class TestTheCommand:
    def test_serves_every_application_that_has_a_secret(self, ledger: Ledger, ledger_url: str, tmp_path: Path) -> None:
        for application in ("default", "eu"):
            ledger.send("g1", application=application)
        ledger.absorb()
        environ = {
            "DATABASE_URL": ledger_url, "NYLAS_API_KEY": "k", "NYLAS_WEBHOOK_SECRET": "one",
            "SENDQ_APPLICATIONS": '{"eu": {"api_key": "k", "webhook_secret": "two"}}',
        }  # fmt: skip
        place = tmp_path / "process"
        place.mkdir()
        with running(["webhooks", "--port", "0"], place, **environ) as it:
            port = int(it.line_with("default: ").rsplit(":", 1)[1].strip().strip("/"))
            assert it.line_with("eu: ").strip().endswith(f":{port}/eu")
            server = Served(port)
            assert server.post(envelope("grant.expired", wall()), "/", "two") == 401
            assert server.post(envelope("grant.expired", wall()), "/eu", "two") == 200
            assert ledger.lane(application="eu").closed_at is not None
            assert ledger.lane().closed_at is None
            assert server.ask("GET", "/?challenge=abc")[1] == "abc"
            os.kill(it.process.pid, signal.SIGTERM)
            it.process.communicate(timeout=LIMIT_S)
            assert it.process.returncode == 0
            assert "Traceback" not in it.stderr
            assert "leyah" not in it.stderr
            assert "webhook of eu: 200" in it.stderr

    @pytest.mark.parametrize("missing", ["secret", "ledger", "port"])
    def test_says_in_one_sentence_what_it_lacks(self, sqlite_ledger_url: str, tmp_path: Path, missing: str) -> None:
        environ = {"DATABASE_URL": sqlite_ledger_url, "NYLAS_API_KEY": "k", "NYLAS_WEBHOOK_SECRET": "one"}
        place = tmp_path / "process"
        place.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1] if missing == "port" else 0
            if missing == "secret":
                del environ["NYLAS_WEBHOOK_SECRET"]
            elif missing == "ledger":
                environ["DATABASE_URL"] = "sqlite:////nowhere/ledger.db"
            with running(["webhooks", "--port", str(port)], place, **environ) as it:
                out, _ = it.process.communicate(timeout=LIMIT_S)
                assert (it.process.returncode, out) == (2, "")
                assert "Traceback" not in it.stderr
                word = {"secret": "NYLAS_WEBHOOK_SECRET", "ledger": "sqlite", "port": "port"}[missing]
                assert word in it.stderr.lower() or word in it.stderr
