"""For the tests of an application: carry out what it enqueued, in the test's own process, against a simulator.

    from sendq.simulator import Simulator
    from worker.testing import run_waiting

    with Simulator() as nylas:
        queue.send("grant-id", message)
        run_waiting(queue, nylas)
        assert len(nylas.mailbox) == 1

A worker runs for that long, without Celery and a broker: it leads, claims, calls the simulator and records, as always.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy import URL

from sendq import SendQueue
from sendq.facts.turns import Turn
from sendq.ledger.db.engine import reading
from sendq.ledger.dispatching.due_work import has_due_work
from sendq.rules.pace import PACES
from sendq.simulator import Simulator
from settings import Settings
from settings.values import IN_MEMORY, SecretUrl
from worker.process import Process

# Between two looks at the ledger: little compared with the start of the worker.
LOOK_S = 0.02

# Calls that the simulator has not answered yet when the time is over are not waited for.
GRACE_S = 6.0

# A test should not wait for the limits of real providers.
_UNLIMITED = [
    {"provider": provider, "limits": {limit.name: None for limit in pace.limits}} for provider, pace in PACES.items()
]


class _NoEvents:
    """Nobody watches the worker with Flower."""

    wants_tasks = False

    def send(self, kind: str, **fields: object) -> None:
        """Nothing is published."""


def run_waiting(
    queue: SendQueue | URL | str,
    simulator: Simulator,
    *,
    settings: Mapping[str, str] | None = None,
    limit_s: float = 60.0,
) -> None:
    """Carry out all jobs that are due, and return when none is left; whether they succeeded is in the ledger.

    A job that waits for its ``due_at``, a retry, a hold or a sign-in keeps waiting: another call, after it has become
    due, continues. The worker has its own connections, so it sees only what is committed. It removes the providers'
    limits from the paces; what a lane still waits for because of its pace is left waiting, too.

    Args:
        queue: the queue, or the URL of its ledger.
        simulator: a running simulator of the API.
        settings: further settings of the worker by their names in the environment, such as ``SENDQ_ENCRYPTION_KEYS``
            if the queue has a vault. The process's own environment is not read.
        limit_s: seconds after which it gives up.

    Raises:
        TypeError: the queue is an `AsyncSendQueue`.
        TimeoutError: jobs were still due after ``limit_s``.
        SettingsError: a setting is invalid.
        ValueError: the queue has an encryption key that the settings have not.
        SchemaMismatch: the ledger has not been migrated.
    """
    given: object = queue
    if not isinstance(given, SendQueue | URL | str):
        kind = type(given).__name__
        raise TypeError(f"queue: is not a SendQueue; instead of {kind}, pass the URL of its ledger as a string")
    url = queue._ledger.engine.url if isinstance(queue, SendQueue) else queue
    ledger_url = url.render_as_string(hide_password=False) if isinstance(url, URL) else url
    with tempfile.TemporaryDirectory(prefix="sendq-testing-") as home:
        environ = {
            "DATABASE_URL": ledger_url,
            "REDIS_URL": "redis://localhost",  # required with PostgreSQL, and replaced below
            "NYLAS_API_URI": simulator.url,
            "NYLAS_API_KEY": simulator.behaviour.api_key,
            "SENDQ_HOME": home,
            "SENDQ_RUN_DIR": str(Path(home) / "run"),
            "SENDQ_GRACE_S": str(GRACE_S),
            "SENDQ_PACES": json.dumps(_UNLIMITED),
            **(settings or {}),
        }
        loaded = Settings.load(environ)
        if isinstance(queue, SendQueue) and not set(queue._vault.names) <= set(loaded.vault.names):
            raise ValueError("settings: the queue encrypts; pass its keys as SENDQ_ENCRYPTION_KEYS")
        _run(loaded.model_copy(update={"redis_url": SecretUrl(IN_MEMORY)}), limit_s)


def _run(settings: Settings, limit_s: float) -> None:
    def claim_here(bundles: Sequence[Sequence[Turn]]) -> None:
        for bundle in bundles:
            process.engine.intake.take_on([(turn.lane_id, turn.fence, turn.slots) for turn in bundle])

    process = Process(settings, claim_here, _NoEvents(), consumes=lambda: True)
    last = time.monotonic() + limit_s
    process.start()
    try:
        while _has_due_work(process):
            if time.monotonic() > last:
                raise TimeoutError(f"jobs are still due after {limit_s:g} s; queue.why(job.id) says what one waits for")
            time.sleep(LOOK_S)
    finally:
        process.stop()


def _has_due_work(process: Process) -> bool:
    with reading(process.ledger) as connection:
        return has_due_work(connection, now=process.now())
