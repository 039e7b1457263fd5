"""The application's own suppression list for asyncio: `sendq.enqueueing.own_list`, or a function to be awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from sendq.enqueueing.options import Send
from sendq.enqueueing.own_list import ASK_S, Ask, Threads, check_function, failed, hits_of, questions
from sendq.enqueueing.suppressing import Hit

AsyncAsk = Ask | Callable[[str, str | None, Sequence[str]], Awaitable[Iterable[str]]]


class AsyncOwnList:
    """The list of one queue; None: it has none."""

    def __init__(self, ask: AsyncAsk | None) -> None:
        check_function(ask)
        self._ask, self._threads = ask, Threads()

    async def hits(self, sends: Sequence[Send]) -> list[Hit]:
        """The recipients of these (checked) sends that are on the list. Raises `SuppressionListFailed`."""
        if self._ask is None:
            return []
        found: list[Hit] = []
        for question in questions(sends):
            try:
                async with asyncio.timeout(ASK_S) as limit:
                    answer = await self._answer(*question[:3])
            except Exception as error:
                raise failed(TimeoutError() if limit.expired() else error) from error
            found += hits_of(question, answer)
        return found

    async def _answer(self, *asked: Any) -> object:
        assert self._ask is not None
        if inspect.iscoroutinefunction(self._ask):
            return await self._ask(*asked)
        answer: object = await asyncio.wrap_future(self._threads.run(self._ask, *asked))
        return await answer if inspect.isawaitable(answer) else answer
