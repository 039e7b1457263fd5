"""Fixtures that run commands of the command line in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from worker.cli.main import main

Result = tuple[int, str, str]  # status, stdout, stderr
Cli = Callable[..., Result]


def bare_environment(**more: str) -> dict[str, str]:
    """The environment of this process without the settings."""
    ours = ("SENDQ_", "NYLAS_", "DATABASE_URL", "REDIS_URL", "SENTRY_DSN")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process; returns its exit status, stdout and stderr."""
    for name in set(os.environ) - set(bare_environment()):
        monkeypatch.delenv(name)

    def one(*arguments: str) -> Result:
        before = signal.getsignal(signal.SIGINT)
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else -1
        finally:
            signal.signal(signal.SIGINT, before)
        said = capsys.readouterr()
        return status, said.out, said.err

    return one


@pytest.fixture
def cli(run: Cli, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Like `run`, with the ledger of this test."""
    monkeypatch.setenv("DATABASE_URL", ledger_url)
    return run
