"""Where the time of one send goes: samples the stacks and threads of a working worker from outside.

py-spy samples the thread that holds the interpreter's lock; each sample is attributed to the innermost frame that
belongs to a layer (JSON that is written for the ledger is the ledger's). Code that runs without the lock, mainly
encryption and system calls, is in no sample, and a thread that releases the lock is seen for a little too long. So the
operating system's CPU time of each thread, which is complete, is reported too.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import PY_SPY, ROOT, Missing

PER_SECOND = 200  # samples; each stops the worker for about a millisecond
HOTTEST = 15  # functions that are reported
OURS = ("sendq/", "tasks/", "worker/", "settings/")

# A frame belongs to the first layer that matches its file. Paths are relative to the project or its libraries.
LAYERS: dict[str, tuple[str, ...]] = {
    "events and logs": (
        "worker/telemetry/", "structlog/", "prometheus_client/", "celery/events/", "kombu/pidbox.py", "logging/",
        "settings/",
    ),
    "broker": ("kombu/", "redis/", "celery/", "billiard/", "vine/", "amqp/"),
    "ledger": (
        "sendq/ledger/", "sqlalchemy/", "psycopg/", "psycopg_binary/", "worker/serving/recorder.py", "sendq/vault.py",
    ),
    "HTTP and TLS": (
        "tasks/calling/nylas.py", "tasks/calling/upload.py", "aiohttp/", "yarl/", "multidict/", "frozenlist/", "ssl.py",
    ),
    "policy and engine": ("tasks/", "worker/", "sendq/"),
    "event loop": ("asyncio/", "uvloop/"),
}  # fmt: skip
OTHER = "everything else"

_THREAD = re.compile(r"thread \((\d+)\)(?:: (.*))?")


def look(pid: int, seconds: int) -> dict[str, Any]:
    """What this process does for ``seconds``: shares of ``layers``, of ``threads`` (CPU), and of the ``hottest``.

    The latter are our functions, each including what it calls in libraries.

    Raises ``Missing`` if it cannot be sampled.
    """
    if not PY_SPY.exists():
        raise Missing(f"no py-spy in {PY_SPY.parents[1].name}")
    with tempfile.TemporaryDirectory(prefix="sendq-bench-") as folder:
        found, before = Path(folder) / "stacks", _thread_ticks(pid)
        done = subprocess.run(
            [PY_SPY, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(PER_SECOND), "--gil",
             "--threads", "--format", "raw", "--full-filenames", "--output", str(found)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode or not found.exists():
            raise Missing(f"py-spy: {done.stderr.strip()[-300:]}")
        used = {tid: ticks - before.get(tid, 0) for tid, ticks in _thread_ticks(pid).items()}
        return add_up(found.read_text(), used)


def add_up(collapsed: str, ticks: dict[int, int]) -> dict[str, Any]:
    """The result from py-spy's lines, ``thread (ID): name;frame (file:line);… count``, and the CPU ticks of threads."""
    by_layer: Counter[str] = Counter()
    hottest: Counter[str] = Counter()
    names: dict[int, str] = {}
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        thread = _THREAD.match(frames[0])
        if thread is not None:
            names[int(thread[1])] = re.sub(r"[-_ ]?\d+", "", thread[2] or "main")
            frames = frames[1:]
        files = [_file(frame) for frame in frames]
        by_layer[layer_of(files)] += int(count)
        ours = [place for place, file in enumerate(files) if file.startswith(OURS)]
        innermost = ours[-1] if ours else -1
        hottest[f"`{frames[innermost].rpartition(' (')[0]}` in {files[innermost]}"] += int(count)
    by_thread: Counter[str] = Counter()
    for tid, used in ticks.items():
        by_thread[names.get(tid, "those without samples")] += used
    return {
        "samples": by_layer.total(),
        "layers": _shares(by_layer),
        "threads": _shares(by_thread),
        "hottest": dict(list(_shares(hottest).items())[:HOTTEST]),
    }


def lines(found: Mapping[str, Any], whole_ms: float) -> list[str]:
    """What `look` found, as tables. ``whole_ms``: the worker's CPU per job, of which they have the shares."""
    parts = {
        "layers": "layer (samples)",
        "threads": "thread (CPU)",
        "hottest": "function of ours, with all that it calls in libraries (samples)",
    }
    made: list[str] = []
    for part, what in parts.items():
        made += ["", f"| {what} | share | ms |", "|---|---:|---:|"]
        made += [f"| {name} | {share:.1%} | {share * whole_ms:.3f} |" for name, share in found[part].items()]
    return made


def layer_of(files: list[str]) -> str:
    """The layer of a stack, given the files of its frames, innermost last."""
    for file in reversed(files):
        for layer, known in LAYERS.items():
            if file.startswith(known):
                return layer
    return OTHER


def _shares(counts: Counter[str]) -> dict[str, float]:
    """The shares, largest first."""
    return {name: round(count / counts.total(), 4) for name, count in counts.most_common() if count}


def _file(frame: str) -> str:
    """``run (…/site-packages/celery/app/base.py:12)`` → ``celery/app/base.py``."""
    path = frame.rpartition("(")[2].rpartition(":")[0]
    for base in ("/site-packages/", f"{ROOT}/", f"/lib/python{sys.version_info.major}.{sys.version_info.minor}/"):
        path = path.rpartition(base)[2]
    return path


def _thread_ticks(pid: int) -> dict[int, int]:
    """User and system time of each current thread, in kernel ticks."""
    used = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            used[int(task.name)] = int(fields[11]) + int(fields[12])
    return used
