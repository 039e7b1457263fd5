"""All that a worker imports without its settings, for the parent of forked workers (`tests.support.forking`)."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

from worker.__main__ import NOT_IMPORTED

for name in NOT_IMPORTED:
    sys.modules[name] = None  # type: ignore[assignment]

for name in (
    "celery.apps.worker", "celery.bin.worker", "celery.concurrency.thread", "celery.events", "celery.worker.consumer",
    "kombu.transport.redis", "settings.celery", "settings.logs", "settings.sentry", "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlite3", "tasks.policy.policy_file", "uvloop", "worker.process",
    "worker.redis.unknown_messages",
):  # fmt: skip
    import_module(name)

gc.freeze()
