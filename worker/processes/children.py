"""Worker processes as guarded children, as `sendq up` and the demo start them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from settings.environ import ROOT
from worker.processes.guard import Guarded

# A worker that is asked to stop ends within its grace period (SENDQ_GRACE_S); SIGKILL follows this much later.
GRACE_MARGIN_S = 5.0


def flower_argv(*arguments: str) -> list[str]:
    """The command line of Flower with our application.

    Celery looks for applications in the working directory first, where there may be an application's `worker`.
    """
    return [sys.executable, "-P", "-m", "celery", "--workdir", str(ROOT), "-A", "worker", "flower", *arguments]


def worker_argv(*arguments: str) -> list[str]:
    """The command line of a worker, as in production; -P: modules in the working directory are not ours."""
    return [sys.executable, "-P", "-m", "worker", *arguments]


def console_argv(*arguments: str) -> list[str]:
    """The command line of the console."""
    return [sys.executable, "-P", "-m", "worker.cli", "console", *arguments]


def api_argv(*arguments: str) -> list[str]:
    """The command line of the HTTP API."""
    return [sys.executable, "-P", "-m", "worker.cli", "api", *arguments]


def with_packages(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a child finds our packages in any working directory."""
    paths = [str(ROOT), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


def start_child(argv: Sequence[str], *, log: Path, environ: Mapping[str, str], grace_s: float) -> Guarded:
    """Start a child process that ends with this one, however this one ends."""
    return Guarded(argv, log=log, grace_s=grace_s + GRACE_MARGIN_S, env=with_packages(environ))
