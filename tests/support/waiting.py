"""How long a test waits for something before it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds. On an idle machine the wait is a fraction of this, on a slow and busy one perhaps ten times longer; only a
# defect takes this long. A test of speed compares with something measured in the same run.
LIMIT_S = 180.0


def eventually(condition: Callable[[], T], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Wait until ``condition`` holds; returns its value. After ``limit_s`` seconds it fails and names ``what``."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.02)
