"""For the Dockerfile: compiles what sendq's commands import, of the standard library too, and nothing else.

Bytecode of every module of every pinned package would take 46 MB, a third of what the image adds to its base. The
official image of Python has none of its standard library, and a container with a read-only root could not keep it:
each start would compile everything that it imports.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import py_compile
import sys
from importlib.util import cache_from_source
from pathlib import Path

OURS = ("sendq", "sendq_worker", "settings", "tasks", "worker")

# Imported late: by a command that runs, by an instance's first use, by name.
LATE = (
    "alembic.command", "celery.apps.worker", "celery.backends.base", "celery.bin.celery", "celery.bin.worker",
    "celery.concurrency.thread", "celery.events.receiver", "celery.worker.consumer", "flower.app", "flower.command",
    "flower.urls", "kombu.transport.redis", "multiprocessing.resource_tracker", "psycopg_binary", "rich.live",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite", "sqlite3", "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop", "uvicorn.protocols.http.h11_impl",
)  # fmt: skip

# Of Celery's interactive prompt, which its command line imports for Flower: compiled there, once at each start.
NOT_WORTH_IT = ("click_repl", "prompt_toolkit", "pygments", "wcwidth")


def ours() -> list[str]:
    """Every module of ours that can be imported; migrations belong to Alembic, ``__main__`` would run."""
    found = list(OURS)
    for name in OURS:
        names = (one.name for one in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."))
        found.extend(one for one in names if "migrations" not in one and not one.endswith("__main__"))
    return found


def main() -> None:
    """Import it all, then compile every file that Python has read for it, and the rest of ours."""
    for name in (*ours(), *LATE):
        with contextlib.suppress(ImportError):  # needs what the image does not have, like a receiver for Django
            importlib.import_module(name)
    read = {
        Path(file)
        for name, one in list(sys.modules.items())
        if (file := getattr(one, "__file__", None)) and name.partition(".")[0] not in NOT_WORTH_IT
    }
    homes = (Path(next(iter(importlib.import_module(name).__path__))) for name in OURS)
    for file in sorted(read.union(*(home.rglob("*.py") for home in homes))):
        if file.suffix == ".py" and file != Path(__file__) and not Path(cache_from_source(str(file))).exists():
            # The image's files do not change, whatever dates a builder gives them.
            py_compile.compile(str(file), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main()
