from __future__ import annotations

import os
import subprocess
import sys

# glibc reports its arenas and the blocks that it has mapped one by one (malloc_info(3)).
PROGRAM = """
import ctypes, os, re, sys, tempfile, threading
from worker.processes import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p

def allocate(size):
    return ctypes.c_void_p(libc.malloc(size))

def report():
    with tempfile.NamedTemporaryFile() as file:
        stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        return file.read().decode()

def mapped():
    return int(re.findall('type="mmap" count="([0-9]+)"', report())[-1])

allocator.tune()
meeting = threading.Barrier(5)
def thread():
    allocate(10_000)
    meeting.wait(60)
threads = [threading.Thread(target=thread) for _ in range(4)]
for one in threads:
    one.start()
meeting.wait(60)
print(report().count("<heap nr="))
libc.free(allocate(256 * 1024))
before = mapped()
allocate(256 * 1024)
print(mapped() - before)
"""


def arenas_and_maps(**variables: str) -> list[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(
        command, env={**ours, **variables}, capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip


class TestTheAllocatorOfAWorker:
    def test_has_one_arena_and_maps_large_blocks_one_by_one_even_after_one_was_freed(self) -> None:
        assert arenas_and_maps() == ["1", "1"]

    def test_is_left_alone_if_an_operator_tunes_it_in_glibcs_other_way(self) -> None:
        tunables = f"glibc.malloc.arena_max=3:glibc.malloc.mmap_threshold={1024 * 1024}"
        assert arenas_and_maps(GLIBC_TUNABLES=tunables) == ["3", "0"]

    def test_is_as_an_operator_set_it(self) -> None:
        arenas, maps = arenas_and_maps(MALLOC_ARENA_MAX="3", MALLOC_MMAP_THRESHOLD_=str(1024 * 1024))
        assert (arenas, maps) == ("3", "0")
