"""``python -m tests.support.shifted``: the worker, with a clock that a test sets.

``SHIFTED_CLOCK`` names a file with the seconds by which the clock is wrong; a test may rewrite it while the worker
runs. The worker's code is not changed: its clock is injected, as in production.
"""

from __future__ import annotations

import os
from pathlib import Path

from sendq import clock
from sendq.clock import Micros

_shift = Path(os.environ["SHIFTED_CLOCK"])
_true = clock.now


def now() -> Micros:
    """The wall clock of a machine whose time is wrong."""
    return _true() + clock.seconds(float(_shift.read_text() or 0))


clock.now = now

from worker.__main__ import main  # noqa: E402  # it passes the clock on when the worker starts

main()
