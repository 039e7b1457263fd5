"""``python -m tests.chaos.entry``: the real worker, which may die at named places or have a wrong clock."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from sendq import clock
from tasks import failpoints
from tests.chaos.board import VARIABLE, WAITING, WAITING_AFTER_S, Board

_board = Board(Path(os.environ[VARIABLE]))
_true_time = clock.now


def _wrong_time() -> clock.Micros:
    return _true_time() + _board.clock_is_ahead_s() * clock.SECOND


def _reached(point: str) -> None:
    _board.visit(point)
    if point == "calling" and _board.armed(WAITING):
        asyncio.get_running_loop().call_later(WAITING_AFTER_S, _board.visit, WAITING)


failpoints.reached = _reached
clock.now = _wrong_time

from worker.__main__ import main  # noqa: E402  # it passes the clock on when the worker starts

main()
