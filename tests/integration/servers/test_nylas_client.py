"""The Nylas client against real sockets: what goes over the wire, and what each way to fail is called."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasks.calling.nylas import ERROR_BYTES, NylasClient
from tasks.policy.body import JSON_BYTES
from tasks.policy.failure import FAULTS_MAYBE_SENT, FAULTS_NOT_SENT, Answer
from tests.integration.simulator.asking import tls_contexts
from tests.support.sockets import listening
from tests.support.waiting import LIMIT_S

OK = b"HTTP/1.1 200 OK\r\nX-Request-Id: r\r\nContent-Length: 2\r\n\r\n{}"
BODY = b'{"to":[{"email":"leyah@example.com"}]}'

Behaviour = Callable[[asyncio.StreamWriter, int], Awaitable[bool]]


@dataclass
class App:
    api_uri: str
    key: str = "secret"

    def api_key(self) -> str:
        if not self.key:
            raise OSError("no such file")
        return self.key


@dataclass
class Wire:
    """A server that keeps the requests it has read; ``connections`` counts the accepted ones."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0


def answers(raw: bytes) -> Behaviour:
    async def answer(writer: asyncio.StreamWriter, number: int) -> bool:
        writer.write(raw)
        await writer.drain()
        return True

    return answer


@asynccontextmanager
async def serving(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """``behave`` answers one request (writer, number of the request) and says whether to keep the connection."""
    wire = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                headers = {name.lower(): text for name, text in (item.split(": ", 1) for item in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                wire.requests.append((line, headers, body))
                if not await behave(writer, len(wire.requests)):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async with listening(serve, tls) as port:
        wire.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield wire


def run(story: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(story, LIMIT_S)

    return asyncio.run(limited())


async def send(url: str, **client: Any) -> Answer:
    async with NylasClient(**client) as nylas:
        return await nylas.send(App(url), "grant-1", BODY, "job:0")


class TestARequest:
    def test_carries_the_frozen_bytes_and_exactly_these_headers(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire:
                answer = await send(wire.url)
                assert (answer.status, answer.body, answer.headers["x-request-id"]) == (200, b"{}", "r")
                line, headers, body = wire.requests[0]
                assert line == "POST /v3/grants/grant-1/messages/send HTTP/1.1"
                assert body == BODY
                assert headers.pop("host")
                assert headers == {
                    "authorization": "Bearer secret",
                    "idempotency-key": "job:0",
                    "content-type": "application/json",
                    "content-length": str(len(BODY)),
                    "accept": "application/json",
                    "accept-encoding": "identity",
                    "user-agent": "sendq/0.1.0",
                }

        run(story())

    @pytest.mark.parametrize("suffix", ["", "/", "/v3", "/v3/", "//"])
    def test_never_doubles_the_slash_of_the_base_url(self, suffix: str) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire:
                await send(wire.url + suffix)
                assert wire.requests[0][0].split()[1] == "/v3/grants/grant-1/messages/send"

        run(story())

    def test_encodes_ids_once(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as nylas:
                await nylas.modify(App(wire.url), "g/1", "<a+b/c%2F@d.e> ü", b"{}")
                assert wire.requests[0][0] == (
                    "PUT /v3/grants/g%2F1/messages/%3Ca%2Bb%2Fc%252F%40d.e%3E%20%C3%BC HTTP/1.1"
                )

        run(story())

    def test_adds_the_parameters_of_a_change(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as nylas:
                app, asked = App(wire.url), "shared_from=team%40example.com"
                await nylas.modify(app, "g", "m", b"{}", parameters=asked)
                await nylas.modify_thread(app, "g", "t", b"{}", parameters=asked)
                await nylas.delete(app, "g", "m", hard=True, parameters=asked)
                await nylas.delete(app, "g", "m", hard=False, parameters=asked)
                assert [line.removesuffix(" HTTP/1.1") for line, _, _ in wire.requests] == [
                    f"PUT /v3/grants/g/messages/m?{asked}",
                    f"PUT /v3/grants/g/threads/t?{asked}",
                    f"DELETE /v3/grants/g/messages/m?hard_delete=true&{asked}",
                    f"DELETE /v3/grants/g/messages/m?{asked}",
                ]

        run(story())

    @pytest.mark.parametrize("name", [".", ".."])
    def test_sends_no_id_that_would_change_the_path(self, name: str) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as nylas:
                app = App(wire.url)
                for answer in (
                    await nylas.modify(app, "g", name, b"{}"),
                    await nylas.modify_thread(app, "g", name, b"{}"),
                    await nylas.delete(app, "g", name, hard=False),
                    await nylas.delete(app, name, "m", hard=False),
                    await nylas.send(app, name, BODY, "k"),
                    await nylas.grant(app, name),
                ):
                    assert (answer.status, answer.fault) == (None, "local")
                assert wire.requests == []

        run(story())

    def test_asks_for_a_grant_and_for_messages(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as nylas:
                await nylas.grant(App(wire.url), "g")
                await nylas.find(App(wire.url), "g", {"metadata_pair": "key1:job 1", "limit": "5"})
                assert [line for line, _, _ in wire.requests] == [
                    "GET /v3/grants/g HTTP/1.1",
                    "GET /v3/grants/g/messages?metadata_pair=key1%3Ajob%201&limit=5 HTTP/1.1",
                ]
                assert "content-type" not in wire.requests[0][1]

        run(story())

    def test_reuses_its_connection(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as nylas:
                for _ in range(3):
                    await nylas.send(App(wire.url), "g", BODY, "k")
                assert wire.connections == 1

        run(story())


class TestAnAnswer:
    def test_that_redirects_is_not_followed(self) -> None:
        async def story() -> None:
            moved = b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
            async with serving(answers(moved)) as wire:
                assert (await send(wire.url)).status == 307
                assert len(wire.requests) == 1

        run(story())

    @pytest.mark.parametrize(
        ("raw", "read"), [(b"caf\xc3\xa9", "café"), (b"caf\xe9", "caf\udce9")], ids=["utf8", "latin1"]
    )
    def test_keeps_its_status_whatever_bytes_its_headers_have(self, raw: bytes, read: str) -> None:
        async def story() -> None:
            head = b"HTTP/1.1 200 OK\r\nX-Sender: " + raw + b"\r\nContent-Length: 2\r\n\r\n{}"
            async with serving(answers(head)) as wire:
                answer = await send(wire.url)
                assert (answer.status, answer.fault, answer.headers["x-sender"]) == (200, None, read)

        run(story())

    def test_without_a_length_is_read_to_its_end(self) -> None:
        async def in_pieces(writer: asyncio.StreamWriter, number: int) -> bool:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"{", b'"a":1', b"}"):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            return True

        async def story() -> None:
            async with serving(in_pieces) as wire, NylasClient() as nylas:
                for _ in range(2):
                    answer = await nylas.send(App(wire.url), "g", BODY, "k")
                    assert (answer.status, answer.body, answer.fault) == (200, b'{"a":1}', None)
                assert wire.connections == 1

        run(story())

    def test_comes_without_a_proxy_that_the_environment_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")

        async def story() -> None:
            async with serving(answers(OK)) as wire:
                assert (await send(wire.url)).status == 200

        run(story())

    def test_whose_body_breaks_off_keeps_its_status(self) -> None:
        async def broken(writer: asyncio.StreamWriter, number: int) -> bool:
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"data')
            await writer.drain()
            return False

        async def story() -> None:
            async with serving(broken) as wire:
                answer = await send(wire.url)
                assert (answer.status, answer.body, answer.fault) == (200, b'{"data', "cut")

        run(story())

    def test_whose_body_never_ends_keeps_its_status(self) -> None:
        async def slow(writer: asyncio.StreamWriter, number: int) -> bool:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nx")
            await writer.drain()
            await asyncio.Event().wait()
            return False

        async def story() -> None:
            async with serving(slow) as wire:
                answer = await send(wire.url, read_s=0.2)
                assert (answer.status, answer.fault) == (503, "cut")

        run(story())

    @pytest.mark.parametrize(("status", "bound"), [(500, ERROR_BYTES), (200, JSON_BYTES)])
    def test_is_read_to_its_bound_and_no_further(self, status: int, bound: int) -> None:
        async def endless(writer: asyncio.StreamWriter, number: int) -> bool:
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {10**12}\r\n\r\n".encode())
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()

        async def story() -> None:
            async with serving(endless) as wire:
                answer = await send(wire.url)
                assert answer.status == status
                assert bound < len(answer.body) < bound + 1024 * 1024

        run(story())


class TestNoAnswer:
    def test_from_a_closed_port_was_not_sent(self) -> None:
        with socket.socket() as reserved:  # bound and not listening: refused for certain
            reserved.bind(("127.0.0.1", 0))
            assert run(send(f"http://127.0.0.1:{reserved.getsockname()[1]}")).fault == "connect"

    def test_from_a_host_that_does_not_shake_hands_was_not_sent(self) -> None:
        with socket.socket() as silent:  # accepts in the kernel and never speaks TLS
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            answer = run(send(f"https://127.0.0.1:{silent.getsockname()[1]}", connect_s=0.2))
        assert answer.fault == "connect"

    def test_for_lack_of_a_trusted_certificate_was_not_sent(self, tmp_path: Path) -> None:
        server, trusting = tls_contexts(tmp_path)

        async def story() -> None:
            async with serving(answers(OK), tls=server) as wire:
                assert (await send(wire.url)).fault == "tls"
                assert wire.requests == []
                assert (await send(wire.url, tls=trusting)).status == 200

        asyncio.run(story())

    def test_for_lack_of_a_name_was_not_sent(self) -> None:
        assert run(send("http://no-such-host.invalid")).fault in ("dns", "connect")

    @pytest.mark.parametrize("url", ["", "nonsense", "http://", "ftp://127.0.0.1", "http://127.0.0.1:99999"])
    def test_from_what_is_no_url_was_not_sent(self, url: str) -> None:
        assert run(send(url)).fault in FAULTS_NOT_SENT

    @pytest.mark.parametrize("key", ["", "two\nlines"])
    def test_without_a_key_was_not_sent(self, key: str) -> None:
        async def story() -> Answer:
            async with NylasClient() as nylas:
                return await nylas.send(App("http://127.0.0.1:1", key), "g", BODY, "k")

        assert run(story()).fault == "key"

    @pytest.mark.parametrize(
        ("head", "fault"),
        [(b"", "reset"), (b"HTTP/1.1 2", "reset"), (b"garbage\r\n\r\n", "cut")],
        ids=["", "half", "garbage"],
    )
    def test_after_the_request_was_read_may_have_been_sent(self, head: bytes, fault: str) -> None:
        async def drop(writer: asyncio.StreamWriter, number: int) -> bool:
            writer.write(head)
            await writer.drain()
            return False

        async def story() -> None:
            async with serving(drop) as wire:
                answer = await send(wire.url)
                assert (answer.status, answer.fault) == (None, fault)
                assert answer.fault in FAULTS_MAYBE_SENT
                assert len(wire.requests) == 1

        run(story())

    def test_within_the_read_timeout_may_have_been_sent(self) -> None:
        async def hang(writer: asyncio.StreamWriter, number: int) -> bool:
            await asyncio.Event().wait()
            return False

        async def story() -> None:
            async with serving(hang) as wire:
                assert (await send(wire.url, read_s=0.2)).fault == "timeout"
                assert len(wire.requests) == 1

        run(story())


class TestAConnectionThatWasKeptAlive:
    @pytest.mark.parametrize("method", ["send", "modify", "grant"])
    def test_and_is_dropped_at_the_next_request_is_not_tried_again(self, method: str) -> None:
        async def once(writer: asyncio.StreamWriter, number: int) -> bool:
            if number == 1:
                writer.write(OK)
                await writer.drain()
            return number == 1

        async def story() -> None:
            async with serving(once) as wire, NylasClient() as nylas:
                await nylas.send(App(wire.url), "g", BODY, "k")
                calls = {
                    "send": lambda: nylas.send(App(wire.url), "g", BODY, "k"),
                    "modify": lambda: nylas.modify(App(wire.url), "g", "m", BODY),
                    "grant": lambda: nylas.grant(App(wire.url), "g"),
                }
                assert (await calls[method]()).fault == "reset"
                assert len(wire.requests) == 2
                assert wire.connections == 1

        run(story())


class TestCancelling:
    def test_passes_through(self) -> None:
        async def story() -> None:
            arrived = asyncio.Event()

            async def hang(writer: asyncio.StreamWriter, number: int) -> bool:
                arrived.set()
                await asyncio.Event().wait()
                return False

            async with serving(hang) as wire, NylasClient() as nylas:
                call = asyncio.ensure_future(nylas.send(App(wire.url), "g", BODY, "k"))
                await arrived.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        run(story())

    def test_during_a_handshake_is_the_end_of_the_request(self, tmp_path: Path) -> None:
        """Otherwise it would go out after the worker that gave up, and perhaps beside its repetition."""
        server, trusting = tls_contexts(tmp_path)

        async def story() -> None:
            called, cancelled = asyncio.Event(), asyncio.Event()
            read: list[bytes] = []

            async def handshake_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                called.set()
                await cancelled.wait()
                with suppress(OSError):
                    await writer.start_tls(server)
                    read.append(await reader.read())
                closed.set()

            closed = asyncio.Event()
            async with listening(handshake_late) as port, NylasClient(tls=trusting) as nylas:
                call = asyncio.ensure_future(nylas.send(App(f"https://127.0.0.1:{port}"), "g", BODY, "k"))
                await called.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                cancelled.set()
                await closed.wait()
            assert b"".join(read) == b""

        run(story())

    def test_while_the_answer_is_awaited_closes_the_connection(self) -> None:
        async def story() -> None:
            arrived, closed = asyncio.Event(), asyncio.Event()

            async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                arrived.set()
                await reader.read()
                closed.set()

            async with listening(hang) as port, NylasClient() as nylas:
                call = asyncio.ensure_future(nylas.send(App(f"http://127.0.0.1:{port}"), "g", BODY, "k"))
                await arrived.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await closed.wait()

        run(story())
