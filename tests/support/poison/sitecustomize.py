"""Answers that kill the process that reads them: loaded by every Python of a test with this folder on PYTHONPATH.

Simulates real causes (a parser that overflows its stack, a body that uses up the memory): as soon as the process reads
an answer with one of the phrases below, it crashes, allocates too much memory or never returns.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from tasks.policy import failure

_parse = failure.parse


def _parse_or_die(answer: failure.Answer, **facts: Any) -> failure.Success | failure.Failure:
    if b"deadly answer" in answer.body or answer.body.startswith(b"\x00\xff\xfe"):  # the simulator's "garbage"
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"insatiable answer" in answer.body:
        bytearray(2 << 30)
    if b"endless answer" in answer.body:
        while True:
            pass
    return _parse(answer, **facts)


failure.parse = _parse_or_die
