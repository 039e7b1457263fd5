"""How much one client may take: values of a body, memory, time and turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sendq.api import bodies
from sendq.api.bodies import VALUES_MOST, Incoming, parsed
from sendq.api.limits import BodyMemory, FailedLogins, Turns
from sendq.api.problems import Refused


class TestJson:
    @pytest.mark.parametrize("body", [b"[" + b"[]," * 2_000_000 + b"[]]", b"[" + b'"",' * 2_500_000 + b'""]'])
    def test_of_too_many_values_is_refused_before_it_is_parsed(
        self, body: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("json.loads", None)
        with pytest.raises(Refused, match="too-large"):
            parsed(body)

    @pytest.mark.parametrize("text", ["1,2,[{" * 500_000, '\\,"[' * 400_000])
    def test_may_have_any_text(self, text: str) -> None:
        assert parsed(json.dumps({"body": text}).encode()) == {"body": text}

    def test_of_many_real_messages_is_below_the_bound(self) -> None:
        recipients = [{"name": "Leyah Miller", "email": "leyah@example.com"}] * 10
        one = {"grant_id": "g", "message": {"to": recipients, "subject": "May", "body": "<p>Hi, you</p>"}, "key": "k"}
        body = json.dumps({"sends": [one] * 10_000}).encode()
        assert bodies._marks(body) < VALUES_MOST


class TestBodyMemory:
    def test_is_shared_between_tokens(self) -> None:
        memory = BodyMemory(100, each=60)
        assert [memory.take(50, "a"), memory.take(20, "a"), memory.take(40, "b"), memory.take(20, "b")] == [
            True, False, True, False,
        ]  # fmt: skip
        memory.give_back(50, "a")
        assert memory.take(60, "a")


class TestASlowBody:
    def test_has_to_bring_more_than_a_byte_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "PART_S", 0.1)

        class Drips:
            """A request."""

            async def stream(self) -> AsyncIterator[bytes]:
                """A byte in every hundredth of a second."""
                while True:
                    yield b"x"
                    await asyncio.sleep(0.01)

        async def read() -> None:
            request: Any = Drips()
            async with asyncio.timeout(30):
                async for _ in Incoming(request, BodyMemory(10_000, each=10_000)).stream(10_000):
                    pass

        with pytest.raises(Refused, match="too-slow"):
            asyncio.run(read())


class TestTurns:
    def test_leave_some_for_other_tokens_and_for_reads(self) -> None:
        async def play() -> None:
            turns = Turns(5, writes=3, each=2, wait_s=0.01)
            async with AsyncExitStack() as held:
                for token in ("a", "a", "b"):
                    await held.enter_async_context(turns.turn(token, writes=True))
                for token, writes in (("a", False), ("a", True), ("b", True), ("c", True)):
                    with pytest.raises(Refused, match="unavailable") as refused:
                        await held.enter_async_context(turns.turn(token, writes=writes))
                    assert int(refused.value.headers["retry-after"]) >= 1
                for token in ("b", "c"):
                    await held.enter_async_context(turns.turn(token, writes=False))
            for _ in range(9):  # whoever was refused has taken no turn
                async with turns.turn("a", writes=True), turns.turn("b", writes=True):
                    pass

        asyncio.run(play())

    def test_of_large_requests_are_one_for_each_token_and_leave_the_small_ones_theirs(self) -> None:
        async def play() -> None:
            turns = Turns(5, writes=5, each=2, wait_s=0.01)
            async with AsyncExitStack() as held:
                for token in ("a", "b"):
                    await held.enter_async_context(turns.turn(token, writes=True, large=True))
                    with pytest.raises(Refused, match="unavailable"):
                        await held.enter_async_context(turns.turn(token, writes=True, large=True))
                    await held.enter_async_context(turns.turn(token, writes=True))
            async with turns.turn("a", writes=True, large=True):
                pass

        asyncio.run(play())


class TestFailedLogins:
    def test_are_logged_once_for_each_address_and_window(self) -> None:
        now = 0.0
        failed = FailedLogins(now=lambda: now)
        asked = [("1.1.1.1", False), ("1.1.1.1", False), ("1.1.1.1", True), ("1.1.1.1", True), ("2.2.2.2", False)]
        assert [failed.is_news(address, limited=limited) for address, limited in asked] == [
            True, False, True, False, True,
        ]  # fmt: skip
        now = 300.0
        assert failed.is_news("1.1.1.1", limited=False)
