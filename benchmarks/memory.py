"""Where a worker's memory goes: its imports by library, in a process that only imports.

    python -m benchmarks.memory

prints, as JSON, by how many MB the process grew while the modules of each library were executed, without what they
imported from other libraries. A page of memory counts for the library that first needs it, so small values are rough.
This module and `worker.__main__` import only the standard library: what is imported before the measurement starts is
not counted.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from worker.__main__ import NOT_IMPORTED

OURS = ("sendq", "tasks", "worker", "settings")
STANDARD = "the standard library"
PYTHON = "Python itself"
SHOWN = 14  # libraries; the rest is summed up
REST = "all others"

# What `python -m worker` has loaded when it works.
LOADED = ("celery.bin.worker", "worker.celery", "worker.process", "celery.apps.worker",
          "celery.worker.consumer", "celery.concurrency.thread", "celery.events", "kombu.transport.redis")  # fmt: skip
# Without these the application does not load. The servers are not contacted.
SETTINGS = {"DATABASE_URL": "sqlite:///nowhere.db", "REDIS_URL": "redis://nowhere", "NYLAS_API_KEY": "nyk_nobody"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int | str = "self") -> float:
    """The resident memory of a process now, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def of_imports() -> dict[str, float]:
    """MB by library, largest first. Raises ``RuntimeError`` with the program's output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
        env={**os.environ, **SETTINGS}, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"benchmarks.memory: {done.stderr.strip()[-300:]}")
    return shown(json.loads(done.stdout))


def shown(grown: Mapping[str, float]) -> dict[str, float]:
    """The largest libraries, and the sum of the rest."""
    ordered = sorted(grown.items(), key=lambda item: item[1], reverse=True)
    found = {name: round(mb, 1) for name, mb in ordered[:SHOWN]}
    return found | {REST: round(sum(mb for _, mb in ordered[SHOWN:]), 1)}


class Scales:
    """By how much the process grew, by library; nested imports count for their own library."""

    def __init__(self) -> None:
        self.grown: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []

    def weigh(self, spec: ModuleSpec) -> None:
        """Make the loader measure the module while it executes it."""
        loader = spec.loader
        if loader is None:  # a namespace: nothing is executed
            return
        execute, library = loader.exec_module, library_of(spec.name)

        def weighed(module: ModuleType) -> None:
            before = resident_mb()
            self._within.append(0.0)
            try:
                execute(module)
            finally:
                grown = resident_mb() - before
                self.grown[library] += grown - self._within.pop()
                if self._within:
                    self._within[-1] += grown

        loader.exec_module = weighed  # type: ignore[method-assign]


class Weigher:
    """The first finder: every module from a file is measured."""

    def __init__(self, scales: Scales) -> None:
        self._scales = scales

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            self._scales.weigh(spec)
        return spec


def library_of(module: str) -> str:
    """``celery.app.base`` → celery; our own modules are one entry, and so is the standard library."""
    top = module.partition(".")[0]
    if top in OURS:
        return "sendq"
    return STANDARD if top in sys.stdlib_module_names else top


def main() -> None:
    """Import everything, and print what it took."""
    alone, scales = resident_mb(), Scales()
    for name in NOT_IMPORTED:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.meta_path.insert(0, Weigher(scales))
    for name in LOADED:
        importlib.import_module(name)
    print(json.dumps({PYTHON: alone, **scales.grown}))


if __name__ == "__main__":
    main()
