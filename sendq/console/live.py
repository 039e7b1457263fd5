"""Live updates as server-sent events: one query for all who look at the same page, however many they are."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

# How often a page that is open is queried.
EVERY_S = 5.0

# Streams at once; a browser beyond these gets no live updates.
STREAMS_MOST = 500

# How long to keep the last rendering of a page that nobody looks at any more.
FORGOTTEN_S = 60.0

Kind = Literal["page", "trouble"]
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a page shows now: its live part, or (``trouble``) a sentence that says why it cannot be shown."""

    kind: Kind
    text: str

    def event(self) -> str:
        """As a server-sent event: JSON has no line breaks."""
        return f"event: {self.kind}\ndata: {json.dumps(self.text)}\n\n"


@dataclass
class _Shared:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = -FORGOTTEN_S
    rendered: Rendered | None = None


class Fragments:
    """The live parts of pages, each rendered at most once in `EVERY_S`."""

    def __init__(self, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.every_s = every_s
        self._clock = clock
        self._shared: dict[Key, _Shared] = {}
        self._open: set[asyncio.Event] = set()

    @property
    def streams(self) -> int:
        """How many browsers are being sent events."""
        return len(self._open)

    def close(self) -> None:
        """End all streams, so that the server can stop. Browsers connect again by themselves."""
        for closing in self._open:
            closing.set()

    async def get(self, key: Key, render: Callable[[], Awaitable[Rendered]]) -> Rendered:
        """The last rendering, if it is recent enough, else a new one. Those who ask meanwhile wait for it."""
        self._forget()
        shared = self._shared.setdefault(key, _Shared())
        async with shared.lock:
            # Less than a whole interval: every stream ticks at its own time, and would see an old one for long.
            if shared.rendered is None or self._clock() - shared.at >= 0.9 * self.every_s:
                shared.rendered = await render()
                shared.at = self._clock()
            return shared.rendered

    async def stream(
        self, key: Key, render: Callable[[], Awaitable[Rendered]], allowed: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[str]:
        """Events for one browser, while ``allowed``: what changed, else a comment as a sign of life."""
        closing = asyncio.Event()
        self._open.add(closing)
        try:
            last: Rendered | None = None
            yield f"retry: {round(self.every_s * 1000)}\n\n"
            while not closing.is_set():
                if not await allowed():
                    yield 'event: ended\ndata: ""\n\n'
                    return
                rendered = await self.get(key, render)
                yield ": \n\n" if rendered == last else rendered.event()
                last = rendered
                with suppress(TimeoutError):
                    await asyncio.wait_for(closing.wait(), self.every_s)
        finally:
            self._open.discard(closing)

    def _forget(self) -> None:
        now = self._clock()
        for key, shared in list(self._shared.items()):
            if now - shared.at > FORGOTTEN_S and not shared.lock.locked():
                del self._shared[key]
