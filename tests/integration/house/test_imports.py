"""What a process does not need, it does not import: imports are most of its memory, and of the CPU of its start."""

from __future__ import annotations

import os
import subprocess
import sys

# One process that forks, because each import costs seconds of CPU.
PROGRAM = """
import contextlib, io, os, sys

def check(kind, *unwanted):
    print(kind, *(each for each in unwanted if sys.modules.get(each)), file=sys.stderr, flush=True)

child = os.fork()
if not child:
    import worker.__main__
    check("python -m worker, before it says what not to import", "settings", "pydantic", "sqlalchemy", "celery")
    os._exit(0)
os.waitpid(child, 0)

with contextlib.redirect_stdout(io.StringIO()):
    from worker.cli.main import main
    main(["--help"])
HEAVY = ("celery", "kombu", "redis", "aiohttp", "alembic", "sqlalchemy.orm", "sqlalchemy.ext.asyncio", "sentry_sdk",
         "cryptography.hazmat", "structlog", "psycopg", "rich")
check("sendq --help", *HEAVY, "sqlalchemy", "pydantic", "settings", "tasks")

child = os.fork()
if not child:
    import worker.doctor.ledger_address
    from sendq import Operators
    from settings import Settings
    Settings.load()
    check("sendq status", *HEAVY, "sendq.queue", "email_validator", "tasks", "worker.process")
    import sendq.queue
    check("an application", *HEAVY, "email_validator.deliverability", "dns", "tasks", "sqlite3")
    os._exit(0)
os.waitpid(child, 0)

import worker.__main__
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    worker.__main__.main(["--help"])
check("the application of Flower", "alembic", "aiohttp", "psycopg", "sentry_sdk", "rich", "worker.process")

import celery.apps.worker, celery.concurrency.thread, kombu.transport.redis
import worker.celery, worker.process
worker.process.Process(worker.celery.settings, worker.celery.publish, worker.celery.Events(None), consumes=bool)
check(
    "a worker", *worker.__main__.NOT_IMPORTED, "alembic", "sqlalchemy.orm", "cryptography.hazmat", "asyncpg",
    "psycopg2", "celery.bin.celery", "click_repl", "prompt_toolkit", "flower", "tornado", "uvicorn", "worker.doctor",
    "sentry_sdk", "urllib3",  # only with SENTRY_DSN
    "sendq.queue", "tasks.enqueue", "email_validator",  # only with SENDQ_ENQUEUE_TASK
    "tasks.policy.policy_file",  # only with SENDQ_POLICY_FILE
    "sqlite3",  # only with a ledger in a file
    "aiohttp.web", "aiohttp.test_utils", "sqlalchemy.ext", "sqlalchemy.dialects.mysql", "kombu.transport.pyamqp",
    "celery.fixups", "celery.contrib", "celery.concurrency.prefork", "unittest", "xml", "smtplib", "babel", "dns",
    "sendq.api", "sendq.console", "sendq.simulator", "sendq.operators", "sendq.enqueueing.validation",
    "worker.demo",
)
"""

SETTINGS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1"}


class TestImports:
    def test_are_no_more_than_each_kind_of_process_needs(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, **SETTINGS}, capture_output=True, text=True, check=True
        )
        kinds = [
            "python -m worker, before it says what not to import", "sendq --help", "sendq status", "an application",
            "the application of Flower", "a worker",
        ]  # fmt: skip
        assert done.stderr.splitlines() == kinds
