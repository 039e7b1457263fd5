"""Every command that asks a ledger, on ledgers that cannot be used, and on one in which nothing has happened yet."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sendq.vault import new_key
from tests.support.commands import Cli
from worker.cli.main import sendq

NOBODY = "0192f0c1-2f3e-7c4d-9a5b-0123456789ab"
WHY = ["--reason", "r"]

# What each is asked, and its exit status on an empty ledger: 1 where there is no such thing.
ASKS: dict[str, tuple[list[str], int]] = {
    "approve": ([NOBODY], 1),
    "batch": ([NOBODY], 1),
    "cancel": ([NOBODY], 1),
    "dead": ([], 0),
    "deliveries": ([], 0),
    "deliveries retry": (["--given-up"], 0),
    "events": ([], 0),
    "forget": (["--grant", "g1", *WHY], 1),
    "grants": ([], 0),
    "hold": (["--grant", "g1", *WHY], 0),
    "jobs": ([], 0),
    "priority": ([NOBODY, "--to", "high"], 1),
    "reject": ([NOBODY], 1),
    "recover": (["--since", "1h", *WHY], 0),
    "rekey": ([], 0),
    "release": (["--grant", "g1", *WHY], 1),
    "reschedule": ([NOBODY, "--now"], 1),
    "resolve": (["dead", "--all-in-doubt", *WHY], 0),
    "retry": (["--rule", "bad_request"], 0),
    "status": ([], 0),
    "suppressions list": ([], 0),
    "undo": (["--batch", NOBODY], 1),
    "warmup": (["--grant", "g1", *WHY], 0),
    "why": ([NOBODY], 1),
    "window": (["--grant", "g1", "--remove", *WHY], 0),
}

# Those that ask none, that make one, or that answer for it in their own way and have tests of that.
OTHERS = {
    "api", "check", "console", "demo", "explain", "flower", "health", "keys", "merge", "migrate", "password", "policy",
    "replace", "settings", "simulator", "token", "top", "up", "webhooks", "worker",
}  # fmt: skip


def test_every_command_is_here() -> None:
    assert {name.split()[0] for name in ASKS} | OTHERS == set(sendq.commands)


def missing(_: Path) -> None:
    """No file."""


def without_tables(file: Path) -> None:
    sqlite3.connect(file).close()
    file.touch()


def newer(file: Path) -> None:
    """A ledger that a later version has migrated."""
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE sendq_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO sendq_version VALUES ('0099')")
    database.close()


def no_database(file: Path) -> None:
    file.write_text("not a database, but long enough to be looked at as one\n" * 50)


@pytest.fixture
def cli(run: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """With the one setting that a command needs beside a ledger."""
    monkeypatch.setenv("SENDQ_ENCRYPTION_KEYS", new_key("k"))
    return run


@pytest.mark.parametrize("command", ASKS)
class TestALedgerThatCannotBeUsed:
    @pytest.mark.parametrize(
        ("made", "remedy"),
        [
            (missing, "sendq migrate"),
            (without_tables, "sendq migrate"),
            (newer, "upgrade sendq in"),
            (no_database, "sendq check"),
        ],
    )
    def test_is_one_sentence_with_the_remedy(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str,
        made: Callable[[Path], None], remedy: str,
    ) -> None:  # fmt: skip
        made(tmp_path / "ledger.db")
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
        for form in ([], ["--json"]):
            status, out, err = cli(*command.split(), *ASKS[command][0], *form)
            assert (status, out, err.count("\n")) == (2, "", 1), err
            assert remedy in err

    def test_that_is_away_is_one_sentence_without_its_password(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://sendq:hush@127.0.0.1:1/x")
        status, out, err = cli(*command.split(), *ASKS[command][0])
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert "sendq check" in err
        assert "hush" not in err


@pytest.mark.parametrize("command", ASKS)
class TestAnEmptyLedger:
    def test_has_an_answer_for_people_and_for_programs(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, sqlite_ledger_url: str, command: str
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", sqlite_ledger_url)
        words, expected = ASKS[command]
        status, out, err = cli(*command.split(), *words)
        assert status == expected
        assert (out if expected == 0 else err).strip()
        status, out, _ = cli(*command.split(), *words, "--json")
        assert status == expected
        assert not out or json.loads(out) is not None
