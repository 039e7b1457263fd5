"""The console script `sendq`, and a check that Python finds our packages and not an application's.

`settings`, `tasks` and `worker` are common names of modules, and whichever comes first on Python's path is imported.
This package has a name that no other project uses, so it can tell.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import sendq

__version__ = "0.1.0"

PACKAGES = ("settings", "tasks", "worker")

UNUSABLE = 2  # exit status


def main() -> int:
    """Run the command line; the exit status if it cannot run here. Otherwise the command line exits by itself."""
    if why := fault():
        print(f"sendq: {why}", file=sys.stderr)
        return UNUSABLE
    runpy.run_module("worker.cli", run_name="__main__", alter_sys=True)
    return 0


def require() -> None:
    """Exit with status 2 and one sentence on stderr if this process cannot run workers or commands of sendq."""
    if why := fault():
        print(f"sendq: {why}", file=sys.stderr)
        raise SystemExit(UNUSABLE)


def fault() -> str | None:
    """What keeps this process from running sendq's code, with the remedy."""
    return shadowed(found(), Path(__file__).parents[1]) or mismatch(__version__, sendq.__version__)


def found() -> dict[str, str | None]:
    """For each of our packages, the file that an import would run; none for a package without one."""
    specs = {name: find_spec(name) for name in PACKAGES}
    return {name: spec.origin if spec else None for name, spec in specs.items()}


def shadowed(files: Mapping[str, str | None], home: Path) -> str | None:
    """The sentence about the first of ``files`` that is not of the distribution in ``home``."""
    for name, file in files.items():
        if file is None:
            return f"the package {name!r} of sendq-worker is missing in {home}: install sendq-worker again"
        if Path(file).resolve() != (home / name / "__init__.py").resolve():
            return (
                f"{file} hides sendq-worker's own package {name!r}: install sendq-worker into an environment of its "
                f"own, without PYTHONPATH, and start it from a directory that has no {name}.py and no {name}"
            )
    return None


def mismatch(worker: str, package: str) -> str | None:
    """The sentence about two distributions that do not belong together."""
    if worker == package:
        return None
    return (
        f"sendq-worker {worker} cannot run with sendq {package}: install the same version of both, "
        f"for example pip install sendq-worker=={package} sendq=={package}"
    )
