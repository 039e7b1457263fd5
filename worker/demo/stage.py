"""The demo's processes, all in one temporary directory: ledger, broker, API, one worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Engine

from sendq import SendQueue
from sendq.ledger.db import migrate
from sendq.ledger.db.engine import open_engine
from sendq.simulator import Simulator
from settings.values import IN_MEMORY
from worker.cli.output import complain
from worker.demo.story import LATENCY_S, set_up
from worker.processes.children import start_child, worker_argv
from worker.processes.guard import Guarded
from worker.processes.stopping import Stop
from worker.redis.embedded import NO_BROKER, EmbeddedRedis, NoServerError

KEY = "demo-key"
GRACE_S = 6.0  # s; the simulator answers within LATENCY_S, so there is nothing to wait for

# Variables of the user's own set-up, which the demo must not touch.
THEIRS = ("SENDQ_", "NYLAS_", "DATABASE_URL", "REDIS_URL", "SENTRY_DSN")


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs."""

    queue: SendQueue
    ledger: Engine
    nylas: Simulator
    worker: Guarded
    log: Path
    environ: Mapping[str, str]


@contextmanager
def staged(
    stop: Stop, *, prepare: Callable[[Simulator], None] = set_up, settings: Mapping[str, str] | None = None
) -> Iterator[Stage]:
    """Start everything, and clean up in any case. Raises `Stopping` between two steps.

    ``prepare`` scripts the simulator's failures; ``settings`` are further environment variables of the worker.
    """
    with ExitStack() as running:
        home = Path(tempfile.mkdtemp(prefix="sendq-demo-"))
        running.callback(shutil.rmtree, home, ignore_errors=True)
        url = URL.create("sqlite", database=str(home / "ledger.db"))
        ledger = open_engine(url)
        running.callback(ledger.dispose)
        migrate.upgrade(ledger)
        stop.check()
        nylas = running.enter_context(Simulator(KEY, latency=LATENCY_S, log_bodies=False))
        prepare(nylas)
        stop.check()
        try:
            broker_url = running.enter_context(EmbeddedRedis(home / "redis")).url
        except NoServerError:
            broker_url = IN_MEMORY
            complain(NO_BROKER)
        stop.check()
        log = home / "worker.log"
        environ = _environ(os.environ) | {
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "REDIS_URL": broker_url,
            "NYLAS_API_KEY": KEY,
            "NYLAS_API_URI": nylas.url,
            "SENDQ_HOME": str(home),
            "SENDQ_RUN_DIR": str(home / "run"),
            "SENDQ_LOG_FORMAT": "console",
            "SENDQ_GRACE_S": str(GRACE_S),
            **(settings or {}),
        }
        worker = start_child(worker_argv("-l", "INFO"), log=log, environ=environ, grace_s=GRACE_S)
        running.callback(worker.stop)
        stop.check()
        yield Stage(SendQueue(ledger), ledger, nylas, worker, log, environ)


def keep_log(log: Path) -> Path:
    """A copy of the worker's log that outlives the demo: for when something went wrong."""
    number, name = tempfile.mkstemp(prefix="sendq-demo-worker-", suffix=".log")
    os.close(number)
    return Path(shutil.copyfile(log, name))


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(THEIRS)}
