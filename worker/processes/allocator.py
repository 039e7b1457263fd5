"""Tune glibc's allocator for a process with many threads, of which one at a time runs Python.

By default, each thread allocates from its own arena, whose free memory only that thread can use again.
And once a large block has been freed, blocks of its size are no longer mapped one by one: the buffer of a quarter of a
megabyte that a TLS connection reserves, and of which it uses a few pages, then lies in memory that was all used before.
With 500 calls in flight that is 20 MB (`./dev bench peers`). Facts: mallopt(3).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# By the environment variable with which an operator sets it: mallopt's number of the parameter, and our value.
PARAMETERS = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, 128 * 1024),  # bytes; the default at the start of a process, which then stays
    # Bytes that may be free at the end of the heap. The default of 128 KiB would stay too, and be passed all the time.
    "MALLOC_TRIM_THRESHOLD_": (-1, 1024 * 1024),
}


def tune(environment: Mapping[str, str] = os.environ) -> None:
    """Set what the environment does not. Call it before the first thread starts; without glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # macOS
        return
    if "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return
    for name, (number, value) in PARAMETERS.items():
        if name not in environment:
            mallopt(number, value)
