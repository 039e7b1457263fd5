"""Bodies with files on a real socket: exact bytes and headers, and what each way to break off is called."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sendq.errors import LedgerUnavailable
from sendq.messages.content import CHUNK
from tasks.calling import nylas
from tasks.calling.nylas import NylasClient
from tasks.calling.upload import Upload
from tasks.policy.failure import FAULTS_MAYBE_SENT, FAULTS_NOT_SENT, Answer
from tests.integration.servers.test_nylas_client import OK, App, answers, run, serving
from tests.support import sockets
from tests.support.sockets import Behaviour
from tests.unit.test_upload import JOB, OPENING, Kept

TYPE = "multipart/form-data; boundary=b"


def upload(kept: Kept, *, form: str = "multipart") -> Upload:
    return Upload(JOB, form, OPENING, len(kept.whole(form)), kept)


async def send(url: str, body: Upload, *, mime: bool = False, **client: float) -> Answer:
    async with NylasClient(**client) as one:  # type: ignore[arg-type]
        return await one.send(App(url), "grant-1", body, "job:0", content_type=TYPE, mime=mime)


@asynccontextmanager
async def listening(behave: Behaviour) -> AsyncIterator[str]:
    """The address of a server that does as it is told with each connection, and then breaks it off."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        finally:
            writer.transport.abort()

    async with sockets.listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


class TestAnUpload:
    @pytest.mark.parametrize(("form", "mime", "query"), [("multipart", False, ""), ("mime", True, "?type=mime")])
    def test_carries_exactly_its_bytes_type_and_length(self, form: str, mime: bool, query: str) -> None:
        async def story() -> None:
            kept = Kept(b"x" * (3 * CHUNK + 1), b"", b"y" * CHUNK)
            async with serving(answers(OK)) as wire:
                answer = await send(wire.url, upload(kept, form=form), mime=mime)
                assert answer.status == 200
                line, headers, body = wire.requests[0]
                assert line == f"POST /v3/grants/grant-1/messages/send{query} HTTP/1.1"
                assert body == kept.whole(form)
                assert headers["content-type"] == TYPE
                assert headers["content-length"] == str(len(body))
                assert headers["idempotency-key"] == "job:0"
                assert "transfer-encoding" not in headers

        run(story())

    def test_leaves_its_connection_to_the_next_request(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire, NylasClient() as client:
                for _ in range(2):
                    await client.send(App(wire.url), "g", upload(Kept(b"x" * CHUNK)), "k", content_type=TYPE)
                await client.send(App(wire.url), "g", b"{}", "k")
                assert wire.connections == 1
                assert wire.requests[2][1]["content-type"] == "application/json"

        run(story())

    def test_reads_no_further_than_the_socket_takes(self) -> None:
        async def story() -> None:
            kept = Kept(b"x" * 200 * CHUNK)
            ahead: list[int] = []

            async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                for megabytes in range(1, 20):
                    await reader.readexactly(1_000_000)
                    ahead.append(kept.asked * CHUNK - megabytes * 1_000_000)

            async with listening(slowly) as url:
                await send(url, upload(kept))
            assert len(ahead) == 19
            assert max(ahead) < 10_000_000  # what the kernel holds for both sides; all of it would be 39 million

        run(story())


class TestAnUploadThatBreaksOff:
    def test_because_the_ledger_went_away_was_not_sent(self) -> None:
        async def story() -> None:
            kept = Kept(b"x" * 3 * CHUNK, fails=(2, LedgerUnavailable("away")))
            async with serving(answers(OK)) as wire:
                answer = await send(wire.url, upload(kept))
                assert (answer.status, answer.fault) == (None, "incomplete")
                assert wire.requests == []

        run(story())

    def test_because_a_chunk_is_missing_was_not_sent(self) -> None:
        async def story() -> None:
            kept = Kept(b"x" * 3 * CHUNK)
            body = upload(kept)
            kept.ids = dict.fromkeys(kept.ids, b"x" * CHUNK)
            async with serving(answers(OK)) as wire:
                assert (await send(wire.url, body)).fault == "unreadable"
                assert wire.requests == []

        run(story())

    def test_in_the_middle_was_not_sent(self) -> None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(500_000)

        async def story() -> None:
            async with listening(half) as url:
                answer = await send(url, upload(Kept(b"x" * 100 * CHUNK)))
                assert answer.fault == "incomplete"
                assert answer.fault in FAULTS_NOT_SENT

        run(story())

    def test_behind_the_last_byte_may_have_been_sent(self) -> None:
        async def drop(writer: asyncio.StreamWriter, number: int) -> bool:
            return False

        async def story() -> None:
            async with serving(drop) as wire:
                answer = await send(wire.url, upload(Kept(b"x" * 3 * CHUNK)))
                assert answer.fault == "reset"
                assert answer.fault in FAULTS_MAYBE_SENT
                assert len(wire.requests) == 1

        run(story())

    def test_for_lack_of_an_answer_may_have_been_sent(self) -> None:
        async def hang(writer: asyncio.StreamWriter, number: int) -> bool:
            await asyncio.Event().wait()
            return False

        async def story() -> None:
            async with serving(hang) as wire:
                assert (await send(wire.url, upload(Kept(b"x" * CHUNK)), read_s=0.2)).fault == "timeout"

        run(story())

    def test_for_lack_of_a_connection_is_that(self) -> None:
        async def story() -> None:
            async with serving(answers(OK)) as wire:
                url = wire.url
            assert (await send(url, upload(Kept(b"x" * CHUNK)))).fault == "connect"

        run(story())

    def test_because_nobody_reads_it_was_not_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(nylas, "SLOWEST_UPLOAD", 10**9)

        async def story() -> None:
            async with listening(never) as url:
                answer = await send(url, upload(Kept(b"x" * 100 * CHUNK)), connect_s=0.2, read_s=0.2)
                assert answer.fault == "incomplete"

        run(story())

    @pytest.mark.parametrize("iterations", range(4))
    def test_before_the_server_has_accepted_it_leaves_no_connection_behind(self, iterations: int) -> None:
        """What a test finds that ends with its client: an open socket would be the fault of a later test."""

        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        async def story() -> None:
            async with listening(never) as url:
                client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
                for _ in range(iterations):
                    await asyncio.sleep(0)
            client.close()

        run(story())
        gc.collect()

    def test_with_an_answer_has_that_answer(self) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
            while await reader.read(65_536):  # or what it sends would reset the connection under its answer
                pass

        async def story() -> None:
            async with listening(refuse) as url:
                answer = await send(url, upload(Kept(b"x" * 100 * CHUNK)))
                assert (answer.status, answer.fault) == (413, None)

        run(story())
