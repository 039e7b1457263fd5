"""Options of Celery's worker command that a worker of ours cannot follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from settings.celery import QUEUE

# Celery's names for the pool of threads, on the command line and as a module.
_THREADS = ("threads", "thread")

_OTHER_POOL = (
    "-P: a worker runs on threads alone (with gevent, a dead worker's messages are never handed on); leave it out"
)
_OTHER_QUEUES = (
    f"-Q, -X: a worker reads the queue {QUEUE} and no other, or it would get no work, or that of other applications; "
    "leave them out"
)


def option_fault(options: Mapping[str, Any]) -> str | None:
    """What to correct in the options of a worker, as Celery passes them to ``celeryd_init``; None: nothing."""
    pool = options.get("pool")
    name = pool if isinstance(pool, str) or pool is None else pool.__module__.rpartition(".")[2]
    if name is not None and name not in _THREADS:
        return _OTHER_POOL
    chosen = options.get("queues") or [QUEUE]
    queues = chosen.split(",") if isinstance(chosen, str) else list(chosen)
    return None if queues == [QUEUE] and not options.get("exclude_queues") else _OTHER_QUEUES


def argument_fault(arguments: Sequence[str]) -> str | None:
    """The same for another pool among the arguments: Celery would import it first, and it may not be installed."""
    for index, argument in enumerate(arguments):
        if argument in ("-P", "--pool"):
            pool = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif argument.startswith(("-P", "--pool=")):
            pool = argument.removeprefix("--pool=").removeprefix("-P")
        else:
            continue
        if pool and pool not in _THREADS:
            return _OTHER_POOL
    return None
