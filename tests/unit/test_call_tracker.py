from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

from worker.serving.call_tracker import Wire
from worker.serving.slots import Slots


class Turn:
    def slow(self) -> None: ...


def on_a_loop(what: Callable[[Wire], None]) -> None:
    async def run() -> None:
        what(Wire(asyncio.get_running_loop(), Slots(10, slow_each=10), slow_after_s=5.0))

    asyncio.run(run())


class TestACall:
    def test_that_is_over_keeps_nothing_of_its_turn_in_memory(self) -> None:
        def check(wire: Wire) -> None:
            turn = Turn()
            alive = weakref.ref(turn)
            gc.disable()
            try:
                with wire.call("imap", turn.slow):
                    assert wire.calls == 1
                del turn
                assert alive() is None, "only the garbage collector would end it"
            finally:
                gc.enable()
            assert wire.calls == 0

        on_a_loop(check)

    def test_that_fails_counts_no_longer(self) -> None:
        def check(wire: Wire) -> None:
            try:
                with wire.call("imap", Turn().slow):
                    raise ValueError
            except ValueError:
                assert wire.calls == 0

        on_a_loop(check)
