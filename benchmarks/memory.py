"""Where a worker's memory goes: what it imports, by library, in a process that only imports.

    python -m benchmarks.memory

prints, as JSON, by how many MB the process has grown while the modules of each library were executed, without what
those imported from others in turn. Who first needs a page of memory has all of it, so the small ones are rough. This
module imports the standard library alone: whatever is there before the scales are is not weighed.
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

OURS = ("sendq", "tasks", "worker", "settings")
STANDARD = "the standard library"
PYTHON = "Python itself"
SHOWN = 14  # libraries; the rest is one line
REST = "all others"

# What `celery -A worker worker` has loaded once it works. The command line brings its plugins along, Flower's too.
LOADED = ("celery.bin.celery", "worker.celery", "celery.apps.worker", "celery.worker.consumer",
          "celery.concurrency.thread", "celery.events", "kombu.transport.redis")  # fmt: skip
# Without these the application does not load. Nobody asks the servers.
SETTINGS = {"DATABASE_URL": "sqlite:///nowhere.db", "REDIS_URL": "redis://nowhere", "NYLAS_API_KEY": "nyk_nobody"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int | str = "self") -> float:
    """What a process holds in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def of_imports() -> dict[str, float]:
    """MB by library, the largest first. Raises ``RuntimeError`` with what the program says if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory"],
        env={**os.environ, **SETTINGS}, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"benchmarks.memory: {done.stderr.strip()[-300:]}")
    return shown(json.loads(done.stdout))


def shown(grown: Mapping[str, float]) -> dict[str, float]:
    """The largest, and the rest as one."""
    ordered = sorted(grown.items(), key=lambda item: item[1], reverse=True)
    found = {name: round(mb, 1) for name, mb in ordered[:SHOWN]}
    return found | {REST: round(sum(mb for _, mb in ordered[SHOWN:]), 1)}


class Scales:
    """By how much the process grew, by library; what is imported within an import counts for itself."""

    def __init__(self) -> None:
        self.grown: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []

    def weigh(self, spec: ModuleSpec) -> None:
        """Have the loader weigh the module while it executes it."""
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
    """First among the finders: whatever comes out of a file is weighed."""

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
    """``celery.app.base`` → celery; what is ours, and what comes with Python, each as one."""
    top = module.partition(".")[0]
    if top in OURS:
        return "sendq"
    return STANDARD if top in sys.stdlib_module_names else top


def main() -> None:
    """Import it all, and say what it took."""
    alone, scales = resident_mb(), Scales()
    sys.meta_path.insert(0, Weigher(scales))
    for name in LOADED:
        importlib.import_module(name)
    print(json.dumps({PYTHON: alone, **scales.grown}))


if __name__ == "__main__":
    main()
