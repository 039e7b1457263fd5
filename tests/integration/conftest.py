"""Servers and ledgers on request: imported here alone, so that the unit floor starts without them."""

from __future__ import annotations

from tests.support.commands import cli, run
from tests.support.ledger import (
    engines,
    ledger,
    ledger_url,
    pg_ledger,
    pg_ledger_url,
    pg_migrated,
    sqlite_ledger_url,
    sqlite_template,
)
from tests.support.servers import pg_server, pg_url, redis_server, redis_url
from tests.support.system import system

__all__ = [
    "cli",
    "engines",
    "ledger",
    "ledger_url",
    "pg_ledger",
    "pg_ledger_url",
    "pg_migrated",
    "pg_server",
    "pg_url",
    "redis_server",
    "redis_url",
    "run",
    "sqlite_ledger_url",
    "sqlite_template",
    "system",
]
