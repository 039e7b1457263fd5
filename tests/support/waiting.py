"""How long a test waits before it says that something did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds. What is waited for takes a fraction of it on an idle machine; a slow and busy one may take ten times as long,
# and only a defect takes this long. A test that is about speed compares with something measured in the same run.
LIMIT_S = 180.0


def eventually(condition: Callable[[], T], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Wait until ``condition`` holds; returns its value. Fails, naming ``what``, after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s:g} s"
        time.sleep(0.02)
