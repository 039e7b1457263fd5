"""``python -m worker``: one worker process. The options are those of ``celery worker``: -E, -n NAME, -l LEVEL, …

Celery's own command line first imports all of its commands and plugins, among them Flower and a prompt: a fifth of a
worker's memory, and half a second of CPU at each start. So its worker command is called here directly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

# What our libraries import if it is installed, for purposes that a worker does not have: of OpenTelemetry only if no
# traces are asked for.
NOT_IMPORTED = ("greenlet", "opentelemetry", "psutil", "pygments", "rich", "yaml")

# Workers know of each other through the ledger.
OPTIONS = ("--without-gossip", "--without-mingle")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker until it is stopped; raises `SystemExit` with its status. Default: the arguments of this process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    from worker.processes import allocator

    allocator.tune()
    for name in NOT_IMPORTED:  # before anything that may import it
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's way to make an import fail

    from settings.otel import traces_wanted
    from worker.options import argument_fault

    if traces_wanted(os.environ) and not sys.modules["opentelemetry"]:
        del sys.modules["opentelemetry"]

    if fault := argument_fault(given):
        print(f"sendq: {fault}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    from celery.bin.base import CLIContext
    from celery.bin.worker import worker

    from worker.celery import app

    command: Any = worker
    command.params = [option for option in command.params if option.name != "detach"]  # supervisors are for that
    command.main(
        [*OPTIONS, *given],
        prog_name="python -m worker",
        obj=CLIContext(app=app, no_color=False, workdir=None),
        auto_envvar_prefix="CELERY_WORKER",
    )


if __name__ == "__main__":
    main()
