"""``python -m benchmarks.profiled``: the worker with a profile of the CPU of its threads.

``PROFILE_TO`` names the file that is written (JSON), over ``PROFILE_FOR_S`` seconds that begin when the file
``PROFILE_FROM`` appears:

    threads     CPU milliseconds by thread, from the kernel's clock of each
    functions   CPU milliseconds by thread and function, without the functions it calls; and its number of calls

The profile itself costs some CPU: it shows where time is spent, but not how much. On CPython 3.12 and later only one
thread at a time can be profiled (`sys.monitoring`), so there the functions are missing.
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType
from typing import Any

BY_THREAD = sys.version_info < (3, 12)
FUNCTIONS_MOST = 60

_profiles: dict[threading.Thread, cProfile.Profile] = {}
_run = threading.Thread.run


def begin() -> None:
    """Profile this thread from now on, by its own CPU."""
    if BY_THREAD:
        profile = _profiles[threading.current_thread()] = cProfile.Profile(time.thread_time)
        profile.enable()


def run(thread: threading.Thread) -> None:
    """What every thread runs."""
    begin()
    _run(thread)


def write_profile() -> None:
    """Wait, measure, wait, measure again, and write the difference."""
    while not Path(os.environ["PROFILE_FROM"]).exists():
        time.sleep(0.2)
    threads, functions = cpu_of_threads(), cpu_of_functions()
    lasts_s = float(os.environ["PROFILE_FOR_S"])
    time.sleep(lasts_s)
    spent = {name: ms - threads.get(name, 0.0) for name, ms in cpu_of_threads().items()}
    rows = []
    for place, (ms, calls) in cpu_of_functions().items():
        before_ms, before_calls = functions.get(place, (0.0, 0))
        rows.append((ms - before_ms, calls - before_calls, *place))
    found = {
        "seconds": lasts_s,
        "threads": [{"thread": name, "ms": round(ms, 2)} for name, ms in Counter(spent).most_common()],
        "functions": [
            {"ms": round(ms, 2), "calls": calls, "thread": thread, "function": function}
            for ms, calls, thread, function in sorted(rows, reverse=True)[:FUNCTIONS_MOST]
        ],
    }
    unready = Path(os.environ["PROFILE_TO"] + ".new")
    unready.write_text(json.dumps(found), encoding="utf-8")
    unready.rename(os.environ["PROFILE_TO"])


def cpu_of_threads() -> dict[str, float]:
    """CPU milliseconds so far, by name of the thread; without threads that have ended, and without this one."""
    spent: Counter[str] = Counter()
    for thread in threading.enumerate():
        if thread.ident is not None and thread is not threading.current_thread():
            spent[kind(thread)] += time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident)) / 1e6  # type: ignore[assignment]
    return dict(spent)


def cpu_of_functions() -> dict[tuple[str, str], tuple[float, int]]:
    """CPU milliseconds and calls so far, by thread and function."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for thread, profile in list(_profiles.items()):
        if thread is threading.current_thread():
            continue
        for entry in profile.getstats():
            place = (kind(thread), name_of(entry.code))
            ms, calls = found.get(place, (0.0, 0))
            found[place] = ms + entry.inlinetime * 1e3, calls + entry.callcount
    return found


def kind(thread: threading.Thread) -> str:
    """The name of a thread; the threads of a pool share one."""
    return thread.name.rstrip("0123456789_-")


def name_of(code: Any) -> str:
    """A function's name with its file."""
    if not isinstance(code, CodeType):
        return str(code)
    path = code.co_filename
    for base in ("/site-packages/", f"{Path.cwd()}/", "/lib/"):  # no paths of this machine
        path = path.rpartition(base)[2]
    return f"{path}:{code.co_firstlineno} {code.co_name}"


threading.Thread.run = run  # type: ignore[assignment,method-assign]
threading.Thread(target=write_profile, name="profile", daemon=True).start()
begin()

from worker.__main__ import main  # noqa: E402  # its threads are profiled

main()
