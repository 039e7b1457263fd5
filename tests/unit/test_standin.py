"""The API of the benchmarks: it answers whatever is posted, and notes when it came."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from benchmarks.contest import sent_once
from benchmarks.standin import ANSWER, Caller, Marks


def request(number: int) -> bytes:
    body = f'{{"subject": "Invoice {number}"}}'.encode()
    return b"POST / HTTP/1.1\r\nHost: x\r\nCONTENT-LENGTH: %d\r\n\r\n%s" % (len(body), body)


async def answers(marks: Marks, *pieces: bytes, expected: int) -> int:
    """How many answers come to what is sent piece by piece."""
    server = await asyncio.get_running_loop().create_server(lambda: Caller(marks, 0.01), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    came = 0
    while came < expected:
        await asyncio.wait_for(reader.readuntil(ANSWER), 5)
        came += 1
    writer.close()
    await writer.wait_closed()
    server.close()
    return came


class TestTheStandIn:
    def test_answers_each_request_however_its_bytes_are_cut(self, tmp_path: Path) -> None:
        marks, first = Marks(tmp_path / "marks"), request(1)
        before = time.monotonic_ns()
        pieces = (first[:7], first[7:-5], first[-5:] + request(2) + request(3)[:-1], request(3)[-1:])
        assert asyncio.run(answers(marks, *pieces, expected=3)) == 3
        assert [marks.at(place)[1] for place in range(marks.count)] == [1, 2, 3]
        assert before < marks.at(0)[0] <= marks.at(2)[0] < time.monotonic_ns()

    def test_answers_for_the_grant_that_was_called(self, tmp_path: Path) -> None:
        call = request(1).replace(b"POST / ", b"POST /v3/grants/grant-7/messages/send ")

        async def answered() -> bytes:
            server = await asyncio.get_running_loop().create_server(
                lambda: Caller(Marks(tmp_path / "marks"), 0.01), "127.0.0.1", 0
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            writer.write(call)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            body = await asyncio.wait_for(reader.readexactly(length), 5)
            writer.close()
            await writer.wait_closed()
            server.close()
            return body

        assert b'"grant_id":"grant-7"' in asyncio.run(answered())


class TestTheMarks:
    def test_are_seen_by_whoever_opens_the_file(self, tmp_path: Path) -> None:
        Marks(tmp_path / "marks").add(42)
        other = Marks(tmp_path / "marks")
        assert (other.count, other.at(0)[1]) == (1, 42)

    @pytest.mark.parametrize("numbers", [(0, 1, 1), (0, 2), (0,), (0, 1, 2)])
    def test_of_letters_that_went_twice_or_never_or_were_not_asked_for_are_an_error(
        self, tmp_path: Path, numbers: tuple[int, ...]
    ) -> None:
        marks = Marks(tmp_path / "marks")
        for number in numbers:
            marks.add(number)
        with pytest.raises(RuntimeError, match=f"{len(numbers)} calls for 2 letters"):
            sent_once(marks, range(2))

    def test_of_each_letter_once_tell_when_it_came(self, tmp_path: Path) -> None:
        marks = Marks(tmp_path / "marks")
        for number in (9, 1, 0):
            marks.add(number)
        assert sent_once(marks, range(2), after=1).keys() == {0, 1}
